//! Who this process is, as it answers to clients that confirm a connection.

use std::sync::Arc;

use arc_swap::ArcSwap;
use http::HeaderValue;
use meshwork_core::{InstanceId, ServiceName};

/// The `<service>/<id>` pairs that this process answers as `meshwork-is`. Clones share one list.
///
/// The ids are made before the instances are announced, and change when a registry finds a conflict: the
/// list can be replaced at any time.
#[derive(Clone, Debug, Default)]
pub struct Identity(Arc<ArcSwap<Vec<HeaderValue>>>);

impl Identity {
    /// One that is nobody yet: every request with `meshwork-to` is refused as misdirected.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the list.
    pub fn set<'a>(&self, instances: impl IntoIterator<Item = (&'a ServiceName, &'a InstanceId)>) {
        let values = instances.into_iter().map(|(service, id)| {
            HeaderValue::try_from(format!("{service}/{id}"))
                .expect("invariant: names and ids are visible ASCII")
        });
        self.0.store(Arc::new(values.collect()));
    }

    /// Whether `to`, the value of `meshwork-to`, names this process.
    pub(crate) fn is(&self, to: &HeaderValue) -> bool {
        self.0.load().iter().any(|own| own == to)
    }

    /// The values of `meshwork-is`.
    pub(crate) fn values(&self) -> Arc<Vec<HeaderValue>> {
        self.0.load_full()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_list_counts() {
        let (service, first, second) = (
            ServiceName::new("users").unwrap(),
            InstanceId::new("users-1").unwrap(),
            InstanceId::new("users-2").unwrap(),
        );
        let (identity, to) = (Identity::new(), HeaderValue::from_static("users/users-1"));
        assert!(!identity.is(&to));
        identity.set([(&service, &first)]);
        assert!(identity.is(&to));
        identity.set([(&service, &second)]);
        assert!(!identity.is(&to));
    }
}
