//! Walks two lists that are sorted by id together.

use std::{cmp::Ordering, sync::Arc};

use meshwork_core::{Instance, Instances};

type Pair<'a> = (Option<&'a Arc<Instance>>, Option<&'a Arc<Instance>>);

/// For each id in either list, in order, its record in the one and in the other.
pub(super) fn pairs<'a>(mut a: &'a Instances, mut b: &'a Instances) -> impl Iterator<Item = Pair<'a>> {
    std::iter::from_fn(move || {
        let order = match (a.first(), b.first()) {
            (None, None) => return None,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) if Arc::ptr_eq(a, b) => Ordering::Equal,
            (Some(a), Some(b)) => a.id.cmp(&b.id),
        };
        let first = if order.is_le() { a.split_off_first() } else { None };
        let second = if order.is_ge() { b.split_off_first() } else { None };
        Some((first, second))
    })
}

#[cfg(test)]
mod tests {
    use meshwork_core::{InstanceId, ServiceName};

    use super::*;

    #[test]
    fn every_id_of_either_list_comes_once_in_order() {
        let list = |ids: &[&str]| -> Vec<Arc<Instance>> {
            let make = |id: &&str| {
                let service = ServiceName::new("users").unwrap();
                Arc::new(Instance::with_id(service, InstanceId::new(id).unwrap()))
            };
            ids.iter().map(make).collect()
        };
        let (a, b) = (list(&["a", "c", "d"]), list(&["b", "c", "e", "f"]));
        let seen: Vec<_> =
            pairs(&a, &b).map(|(a, b)| (a.map(|i| i.id.as_str()), b.map(|i| i.id.as_str()))).collect();
        let (only_a, only_b) = (|id| (Some(id), None), |id| (None, Some(id)));
        let both = (Some("c"), Some("c"));
        assert_eq!(seen, [only_a("a"), only_b("b"), both, only_a("d"), only_b("e"), only_b("f")]);
    }
}
