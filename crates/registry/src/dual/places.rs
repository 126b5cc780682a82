//! Which addresses more than one instance claims.

use std::collections::{HashMap, HashSet};

use meshwork_core::{Host, Instance, InstanceId};

/// Where a process listens. The scheme is left out: two schemes at one port are one process.
pub(super) type Address = (Host, u16);

/// The addresses of all records of both sides.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// An id stands here once for each record of it.
    claims: HashMap<Address, Vec<InstanceId>>,
    crowded: HashSet<Address>,
}

impl Places {
    pub(super) fn add(&mut self, instance: &Instance) {
        for address in addresses(instance) {
            self.claims.entry(address.clone()).or_default().push(instance.id.clone());
            self.judge(address);
        }
    }

    pub(super) fn remove(&mut self, instance: &Instance) {
        for address in addresses(instance) {
            if let Some(ids) = self.claims.get_mut(&address)
                && let Some(place) = ids.iter().position(|id| *id == instance.id)
            {
                ids.swap_remove(place);
                if ids.is_empty() {
                    self.claims.remove(&address);
                }
            }
            self.judge(address);
        }
    }

    fn judge(&mut self, address: Address) {
        let ids = self.claims.get(&address).map_or(&[][..], Vec::as_slice);
        match ids.iter().any(|id| *id != ids[0]) {
            true => self.crowded.insert(address),
            false => self.crowded.remove(&address),
        };
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.claims.is_empty()
    }

    /// Whether some address has more than one id.
    pub(super) fn is_crowded(&self) -> bool {
        !self.crowded.is_empty()
    }

    /// Whether this address has more than one id.
    pub(super) fn is_crowded_at(&self, address: &Address) -> bool {
        self.crowded.contains(address)
    }

    /// The ids that share an address with another one; some may come more than once.
    pub(super) fn crowd(&self) -> impl Iterator<Item = &InstanceId> {
        self.crowded.iter().filter_map(|address| self.claims.get(address)).flatten()
    }
}

/// Where an instance listens, each address once.
pub(super) fn addresses(instance: &Instance) -> impl Iterator<Item = Address> + '_ {
    let endpoints = &instance.endpoints;
    let is_first = |at: usize| {
        let same = |place: usize| {
            endpoints[place].host() == endpoints[at].host() && endpoints[place].port() == endpoints[at].port()
        };
        !(0..at).any(same)
    };
    (0..endpoints.len())
        .filter(move |at| is_first(*at))
        .map(|at| (endpoints[at].host().clone(), endpoints[at].port()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use meshwork_core::ServiceName;

    use super::*;

    fn instance(id: &str, endpoints: &[&str]) -> Instance {
        let service = ServiceName::new("users").unwrap();
        let mut instance = Instance::with_id(service, InstanceId::new(id).unwrap());
        instance.endpoints = endpoints.iter().map(|text| text.parse().unwrap()).collect();
        instance
    }

    #[test]
    fn an_address_is_crowded_while_two_ids_claim_it() {
        let mut places = Places::default();
        let a = instance("a", &["http://h:1", "grpc://h:1", "http://h:2"]);
        // Both sides know it: one id, two records.
        places.add(&a);
        places.add(&a);
        assert!(!places.is_crowded());
        let b = instance("b", &["grpc://h:2"]);
        places.add(&b);
        let ids: BTreeSet<_> = places.crowd().map(InstanceId::as_str).collect();
        assert_eq!(ids, BTreeSet::from(["a", "b"]));
        places.remove(&a);
        let address = addresses(&b).next().unwrap();
        assert!(places.is_crowded_at(&address), "one side still shows it");
        places.remove(&a);
        assert!(!places.is_crowded() && !places.is_crowded_at(&address));
        places.remove(&b);
        assert!(places.is_empty());
    }
}
