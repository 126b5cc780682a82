//! Where the process stands among its own kind: which of how many clients it is, and how they are spread over the
//! zones. The cluster task keeps it; zones and the aperture are made by it.

use std::{collections::BTreeMap, sync::Arc};

use meshwork_core::{Snapshot, Status};

use crate::Local;

/// See the module. The default knows nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Which client it is, from 0, and of how many.
    pub(crate) rank: Option<(usize, usize)>,
    /// How many clients each zone has; empty when unknown.
    pub(crate) callers: BTreeMap<Arc<str>, u32>,
}

impl Standing {
    /// As `peers`, the instances of the process's own service, have it. Those that are not `up` do not call.
    pub(crate) fn of(local: &Local, peers: &Snapshot) -> Self {
        let Some(peers) = peers.known() else { return Self::default() };
        let up = || peers.iter().filter(|peer| peer.status == Status::Up);
        let place = local.instance.as_ref().and_then(|own| up().position(|peer| peer.id == *own));
        let mut callers = BTreeMap::new();
        for peer in up() {
            *callers.entry(Arc::clone(&peer.zone)).or_default() += 1;
        }
        if place.is_none() && !callers.is_empty() {
            // It calls before it is announced.
            *callers.entry(Arc::clone(&local.zone)).or_default() += 1;
        }
        Self { rank: place.map(|place| (place, up().count())), callers }
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::{Instance, InstanceId, ServiceName, Watch};

    use super::*;

    fn peer(id: &str, zone: &str, status: Status) -> Arc<Instance> {
        let service = ServiceName::new("orders").unwrap();
        let mut instance = Instance::with_id(service, InstanceId::new(id).unwrap());
        (instance.zone, instance.status) = (zone.into(), status);
        Arc::new(instance)
    }

    fn standing(own: &str) -> Standing {
        let peers: Arc<[_]> = Arc::new([
            peer("orders-1", "a", Status::Up),
            peer("orders-2", "a", Status::Leaving),
            peer("orders-3", "b", Status::Up),
        ]);
        let instance = InstanceId::new(own).ok();
        let local = Local { zone: "b".into(), instance, ..Local::default() };
        Standing::of(&local, &Watch::fixed(peers).latest())
    }

    #[test]
    fn the_rank_is_the_place_among_those_that_are_up() {
        let standing = standing("orders-3");
        assert_eq!(standing.rank, Some((1, 2)));
        assert_eq!(standing.callers, BTreeMap::from([("a".into(), 1), ("b".into(), 1)]));
    }

    #[test]
    fn who_is_not_announced_has_no_rank_and_calls_all_the_same() {
        let standing = standing("orders-9");
        assert_eq!(standing.rank, None);
        assert_eq!(standing.callers, BTreeMap::from([("a".into(), 1), ("b".into(), 2)]));
    }
}
