//! What an announcer holds for one registration, and how it judges what it finds under its own key.

use std::time::Duration;

use meshwork_core::{Decoded, Endpoint, Instance, Timestamp};
use tokio::time::Instant;

use crate::{
    keeper::Keep,
    keys::{Keys, Records},
    record::Entry,
    taps::Tap,
};

/// The most leases that are noted; the oldest of them have expired long before.
pub(crate) const MAX_NOTED: usize = 16;

/// Everything that may live on in etcd for one registration.
#[derive(Default)]
pub(crate) struct Claim {
    /// Every lease that was asked for and not surely ended.
    pub(crate) noted: Vec<i64>,
    /// The lease that etcd confirmed.
    pub(crate) lease: Option<Granted>,
    /// What stands, as far as we know.
    pub(crate) written: Option<Written>,
    /// Who we were in each record that was sent: what a record must name to be ours.
    pub(crate) selves: Vec<Identity>,
    pub(crate) keep: Option<Keep>,
    pub(crate) watch: Vec<Tap>,
}

/// A lease that etcd confirmed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Granted {
    pub(crate) id: i64,
    pub(crate) ttl: Duration,
    /// When it was last known to live.
    pub(crate) since: Instant,
}

/// Records that were written together.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) records: Records,
    pub(crate) lease: i64,
    /// The revision they were written in.
    pub(crate) revision: i64,
}

/// What tells one process from another under the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    endpoints: Vec<Endpoint>,
    start_time: Option<Timestamp>,
}

impl Identity {
    pub(crate) fn of(instance: &Instance) -> Self {
        let mut endpoints = instance.endpoints.clone();
        endpoints.sort();
        Self { endpoints, start_time: instance.start_time }
    }
}

/// What stands under our own keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Exactly what was written, under the lease it was written with.
    Same,
    /// Nothing.
    Absent,
    /// Something else that does not name another process; put at this revision.
    Differs { revision: i64 },
    /// The record of another process.
    Another,
}

impl Claim {
    /// Notes a lease before it is asked for.
    pub(crate) fn note(&mut self, lease: i64) {
        if self.noted.len() >= MAX_NOTED {
            self.noted.remove(0);
        }
        self.noted.push(lease);
    }

    /// Notes who we say we are before it is written.
    pub(crate) fn note_self(&mut self, instance: &Instance) {
        let who = Identity::of(instance);
        if !self.selves.contains(&who) {
            if self.selves.len() >= MAX_NOTED {
                self.selves.remove(0);
            }
            self.selves.push(who);
        }
    }

    /// Lets go of the watch. The lease is kept on: what stands is to stand also while etcd denies us
    /// everything that asks for a token.
    pub(crate) fn rest(&mut self) {
        self.watch.clear();
    }

    /// Forgets record and lease, which belong to another id; the lease stays noted.
    pub(crate) fn forget_record(&mut self) {
        self.lose_lease();
        self.written = None;
        self.selves.clear();
    }

    /// Forgets the confirmed lease, which is gone; it stays noted.
    pub(crate) fn lose_lease(&mut self) {
        self.lease = None;
        self.keep = None;
    }

    /// Judges what stands under the keys of `records`, in their order.
    pub(crate) fn judge(&self, keys: &Keys, records: &Records, lease: i64, found: &[Option<Entry>]) -> Found {
        let first = found.first().and_then(Option::as_ref);
        if let Some(Decoded::Instance(instance)) = first.map(|entry| keys.decode(entry))
            && !self.selves.contains(&Identity::of(&instance))
        {
            return Found::Another;
        }
        let same = |(record, entry): (&(String, Vec<u8>), &Option<Entry>)| {
            entry.as_ref().is_some_and(|e| e.lease == lease && e.value == record.1)
        };
        if records.len() == found.len() && records.iter().zip(found).all(same) {
            return Found::Same;
        }
        match first {
            None => Found::Absent,
            Some(entry) => Found::Differs { revision: entry.revision },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use meshwork_core::{InstanceId, Native, ServiceName};

    use super::*;

    fn keys() -> Keys {
        let dialects: Vec<Arc<dyn meshwork_core::Dialect>> = vec![Arc::new(Native::new("meshwork").unwrap())];
        Keys { root: "/meshwork/".into(), env: "test".into(), dialects }
    }

    fn user() -> Instance {
        let id = InstanceId::new("user-1").unwrap();
        let mut instance = Instance::with_id(ServiceName::new("user").unwrap(), id);
        instance.endpoints.push("http://127.0.0.1:80".parse().unwrap());
        instance
    }

    /// What the judge says of `value` under our key, when `user()` was written under lease 7.
    fn judged(instance: &Instance, value: impl FnOnce(&Keys, Vec<u8>) -> Vec<u8>, lease: i64) -> Found {
        let keys = keys();
        let records = keys.records(instance, 7).unwrap();
        let mut claim = Claim::default();
        claim.note_self(instance);
        let (key, written) = records[0].clone();
        let entry = Entry { key: key.into_bytes(), value: value(&keys, written), lease, revision: 5 };
        claim.judge(&keys, &records, 7, &[Some(entry)])
    }

    fn record_of(keys: &Keys, instance: &Instance) -> Vec<u8> {
        keys.records(instance, 7).unwrap().remove(0).1
    }

    #[test]
    fn our_own_record_is_the_same_only_under_our_lease() {
        let me = user();
        assert_eq!(judged(&me, |_, written| written, 7), Found::Same);
        assert_eq!(judged(&me, |_, written| written, 0), Found::Differs { revision: 5 });
    }

    #[test]
    fn what_somebody_edited_or_spoiled_is_put_back() {
        let me = user();
        let edited = |keys: &Keys, _| {
            let mut edited = me.clone();
            edited.weight = 1;
            record_of(keys, &edited)
        };
        assert_eq!(judged(&me, edited, 7), Found::Differs { revision: 5 });
        assert_eq!(judged(&me, |_, _| b"\xff".to_vec(), 7), Found::Differs { revision: 5 });
    }

    #[test]
    fn a_record_with_other_endpoints_or_start_time_is_another_process() {
        let me = user();
        let mut elsewhere = me.clone();
        elsewhere.endpoints = vec!["http://127.0.0.1:81".parse().unwrap()];
        assert_eq!(judged(&me, |keys, _| record_of(keys, &elsewhere), 7), Found::Another);
        let mut later = me.clone();
        later.start_time = Some(Timestamp::from_millis(1));
        assert_eq!(judged(&me, |keys, _| record_of(keys, &later), 7), Found::Another);
    }

    #[test]
    fn an_update_of_our_own_that_arrived_late_is_still_us() {
        let me = user();
        let mut moved = me.clone();
        moved.endpoints.push("grpc://127.0.0.1:90".parse().unwrap());
        let (keys, mut claim) = (keys(), Claim::default());
        claim.note_self(&me);
        claim.note_self(&moved);
        let records = keys.records(&moved, 7).unwrap();
        let late = Entry {
            key: records[0].0.clone().into_bytes(),
            value: record_of(&keys, &me),
            lease: 7,
            revision: 5,
        };
        assert_eq!(claim.judge(&keys, &records, 7, &[Some(late)]), Found::Differs { revision: 5 });
        assert_eq!(claim.judge(&keys, &records, 7, &[None]), Found::Absent);
    }
}
