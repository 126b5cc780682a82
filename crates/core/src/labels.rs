//! Free key-value pairs of an instance, kept small and sorted.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Labels of an instance, sorted by key. They are public by definition: never put a secret here.
///
/// One allocation holds all pairs; reading by key is a binary search.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Labels(Box<[(Arc<str>, Arc<str>)]>);

impl Labels {
    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        let found = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        Some(&self.0[found].1)
    }

    /// All pairs, sorted by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets one label.
    pub fn set(&mut self, key: impl Into<Arc<str>>, value: impl Into<Arc<str>>) {
        let (key, value) = (key.into(), value.into());
        let mut pairs = std::mem::take(&mut self.0).into_vec();
        match pairs.binary_search_by(|(k, _)| (**k).cmp(&*key)) {
            Ok(found) => pairs[found].1 = value,
            Err(place) => pairs.insert(place, (key, value)),
        }
        self.0 = pairs.into();
    }

    /// Removes one label; says whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        let Ok(found) = self.0.binary_search_by(|(k, _)| (**k).cmp(key)) else { return false };
        let mut pairs = std::mem::take(&mut self.0).into_vec();
        pairs.remove(found);
        self.0 = pairs.into();
        true
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    /// The last value of a repeated key stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let sorted: BTreeMap<Arc<str>, Arc<str>> =
            pairs.into_iter().map(|(k, v)| (k.into(), v.into())).collect();
        Self(sorted.into_iter().collect())
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<String, String>::deserialize(from)?.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stay_sorted_through_every_change() {
        let mut labels: Labels = [("b", "2"), ("a", "0"), ("a", "1")].into_iter().collect();
        labels.set("c", "3");
        labels.set("b", "two");
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("a", "1"), ("b", "two"), ("c", "3")]);
        assert_eq!(labels.get("c"), Some("3"));
        assert!(labels.remove("a") && !labels.remove("a"));
        assert_eq!(labels.len(), 2);
    }
}
