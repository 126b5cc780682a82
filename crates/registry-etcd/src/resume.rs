//! What a subscription may believe: the rules by which a list, a watch and a resumed watch are joined.
//!
//! A pure step function; the shell in `source.rs` does what it orders. A watch from now on is opened
//! first and the linearizable list follows, so that nothing lies between them. After a cut the watch
//! resumes at the last put that was applied, and must first show that very record again; where it
//! cannot (nothing applied since the list, a removal last, no lease to tell it by, a store that is
//! behind us, a compacted history) everything is read anew.

use std::collections::HashMap;

use crate::record::{Entry, Event, Listing};

/// What happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// The watch that was ordered stands, and the store was at this revision.
    Created { revision: i64 },
    /// The list that was ordered.
    Listed(Listing),
    /// A list is being read only to compare.
    Auditing,
    /// That list.
    Audited(Listing),
    /// It could not be read.
    Unaudited,
    /// What the watch shows; whole revisions.
    Events(Vec<Event>),
    /// The watch has shown everything up to this revision.
    Progress { revision: i64 },
    /// The watch cannot go on from where it was.
    Compacted,
    /// The watch is gone.
    Cut,
}

/// What is to be done, in this order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Drop the watch and open one; 0 = from now on.
    Watch { from: i64 },
    /// Read the complete list. What the watch shows meanwhile is handed in after it.
    List,
    /// This list is the truth.
    Replace(Listing),
    /// This is what happened in one revision.
    Apply(Vec<Event>),
    /// The audit found that the watch had missed something: everything is read anew.
    Distrust,
}

/// Where one subscription stands.
#[derive(Debug)]
pub(crate) struct Follower {
    phase: Phase,
    /// Everything up to here is applied.
    revision: i64,
    /// By what the last applied revision can be recognised.
    proof: Option<Proof>,
    known: Index,
    audit: Audit,
}

/// Key and revision of records.
type Index = HashMap<Vec<u8>, i64>;

/// A comparison of what is known with a list.
#[derive(Debug, Default)]
enum Audit {
    #[default]
    None,
    /// The list is being read; what was applied meanwhile.
    Reading(Vec<Event>),
    /// The list is of this revision, which is not yet applied.
    Waiting(i64, Index),
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    /// A watch from now on was ordered.
    Opening,
    /// It stands since this revision; the list was ordered.
    Listing {
        created: i64,
    },
    /// A watch from the last put was ordered; it must show it first.
    Proving,
    Live,
}

/// The first record of the last applied revision.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Proof {
    key: Vec<u8>,
    revision: i64,
    lease: i64,
}

impl Proof {
    /// Only a revision of puts can be recognised, and only by a lease, which no other store would give.
    fn of(events: &[Event]) -> Option<Self> {
        if events.iter().any(|event| matches!(event, Event::Removed { .. })) {
            return None;
        }
        match events.first() {
            Some(Event::Put(Entry { key, lease, revision, .. })) if *lease != 0 => {
                Some(Self { key: key.clone(), revision: *revision, lease: *lease })
            }
            _ => None,
        }
    }

    fn is(&self, event: &Event) -> bool {
        matches!(event, Event::Put(entry)
            if entry.key == self.key && entry.revision == self.revision && entry.lease == self.lease)
    }
}

impl Follower {
    /// A subscription that knows nothing, and its first orders.
    pub(crate) fn start() -> (Self, Vec<Order>) {
        let follower =
            Self { phase: Phase::Opening, revision: 0, proof: None, known: Index::new(), audit: Audit::None };
        (follower, vec![Order::Watch { from: 0 }])
    }

    /// Whether what was applied is what the registry says, as far as anyone has told.
    pub(crate) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// The revision up to which everything is applied.
    #[cfg(test)]
    fn revision(&self) -> i64 {
        self.revision
    }

    /// Takes one input.
    pub(crate) fn step(&mut self, input: Input) -> Vec<Order> {
        match (&self.phase, input) {
            (Phase::Opening, Input::Created { revision }) => {
                self.phase = Phase::Listing { created: revision };
                vec![Order::List]
            }
            (Phase::Listing { created }, Input::Listed(listing)) => {
                if listing.revision < *created {
                    // An older answer than one that we have seen.
                    return vec![Order::List];
                }
                self.replace(&listing);
                vec![Order::Replace(listing)]
            }
            (Phase::Proving, Input::Created { revision }) if revision < self.revision => self.anew(),
            (Phase::Proving, Input::Events(events)) => {
                let proven = self.proof.as_ref().zip(events.first()).is_some_and(|(proof, e)| proof.is(e));
                if !proven {
                    return self.anew();
                }
                self.phase = Phase::Live;
                self.apply(events)
            }
            (Phase::Proving, Input::Progress { revision }) => {
                // Everything up to here was shown, and the record was not among it.
                let absent = self.proof.as_ref().is_none_or(|proof| revision >= proof.revision);
                if absent { self.anew() } else { Vec::new() }
            }
            (Phase::Live, Input::Events(events)) => self.apply(events),
            (Phase::Live, Input::Progress { revision }) => {
                self.revision = self.revision.max(revision);
                self.compare(|audited| audited <= revision)
            }
            (Phase::Live, Input::Auditing) => {
                self.audit = Audit::Reading(Vec::new());
                Vec::new()
            }
            (Phase::Live, Input::Audited(listing)) => self.audited(&listing),
            (Phase::Live, Input::Unaudited) => {
                self.audit = Audit::None;
                Vec::new()
            }
            (Phase::Live | Phase::Proving, Input::Cut) => match &self.proof {
                Some(proof) => {
                    let from = proof.revision;
                    self.phase = Phase::Proving;
                    self.audit = Audit::None;
                    vec![Order::Watch { from }]
                }
                None => self.anew(),
            },
            (_, Input::Cut | Input::Compacted) => self.anew(),
            // Late, or for a phase that is over.
            _ => Vec::new(),
        }
    }

    fn anew(&mut self) -> Vec<Order> {
        self.phase = Phase::Opening;
        self.proof = None;
        self.audit = Audit::None;
        vec![Order::Watch { from: 0 }]
    }

    fn replace(&mut self, listing: &Listing) {
        self.known = index(listing);
        self.revision = listing.revision;
        self.proof = None;
        self.phase = Phase::Live;
    }

    /// Applies what is new, one revision at a time.
    fn apply(&mut self, events: Vec<Event>) -> Vec<Order> {
        let mut orders = Vec::new();
        let mut rest = events.into_iter().filter(|event| event.revision() > self.revision).peekable();
        let mut groups = Vec::new();
        while let Some(first) = rest.next() {
            let revision = first.revision();
            let mut group = vec![first];
            while let Some(event) = rest.next_if(|event| event.revision() == revision) {
                group.push(event);
            }
            groups.push((revision, group));
        }
        for (revision, group) in groups {
            // Everything before this revision is applied.
            let distrust = self.compare(|audited| audited < revision);
            if !distrust.is_empty() {
                orders.extend(distrust);
                break;
            }
            group.iter().for_each(|event| note(&mut self.known, event));
            if let Audit::Reading(meanwhile) = &mut self.audit {
                meanwhile.extend(group.iter().cloned());
            }
            self.revision = revision;
            self.proof = Proof::of(&group);
            orders.push(Order::Apply(group));
        }
        orders
    }

    fn audited(&mut self, listing: &Listing) -> Vec<Order> {
        let Audit::Reading(meanwhile) = std::mem::take(&mut self.audit) else { return Vec::new() };
        let mut listed = index(listing);
        // What was applied beyond the list's revision belongs to both.
        meanwhile.iter().filter(|e| e.revision() > listing.revision).for_each(|e| note(&mut listed, e));
        self.audit = Audit::Waiting(listing.revision, listed);
        let revision = self.revision;
        self.compare(|audited| audited <= revision)
    }

    /// Compares a waiting audit with what is known, once everything up to its revision is applied.
    fn compare(&mut self, is_due: impl FnOnce(i64) -> bool) -> Vec<Order> {
        match std::mem::take(&mut self.audit) {
            Audit::Waiting(revision, listed) if is_due(revision) => {
                if listed == self.known {
                    return Vec::new();
                }
                let mut orders = vec![Order::Distrust];
                orders.extend(self.anew());
                orders
            }
            other => {
                self.audit = other;
                Vec::new()
            }
        }
    }
}

fn note(index: &mut Index, event: &Event) {
    match event {
        Event::Put(entry) => index.insert(entry.key.clone(), entry.revision),
        Event::Removed { key, .. } => index.remove(key),
    };
}

fn index(listing: &Listing) -> Index {
    listing.entries.iter().map(|entry| (entry.key.clone(), entry.revision)).collect()
}

#[cfg(test)]
mod schedules;

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, revision: i64) -> Entry {
        Entry { key: key.as_bytes().to_vec(), value: b"v".to_vec(), lease: 77, revision }
    }

    fn put(key: &str, revision: i64) -> Event {
        Event::Put(entry(key, revision))
    }

    fn gone(key: &str, revision: i64) -> Event {
        Event::Removed { key: key.as_bytes().to_vec(), revision }
    }

    fn list(revision: i64, keys: &[(&str, i64)]) -> Listing {
        Listing { revision, entries: keys.iter().map(|(key, at)| entry(key, *at)).collect() }
    }

    /// Live at revision 10 with one record, put at 9.
    fn live() -> Follower {
        let (mut follower, orders) = Follower::start();
        assert_eq!(orders, [Order::Watch { from: 0 }]);
        assert_eq!(follower.step(Input::Created { revision: 10 }), [Order::List]);
        let first = list(10, &[("a", 9)]);
        assert_eq!(follower.step(Input::Listed(first.clone())), [Order::Replace(first)]);
        assert!(follower.is_live());
        follower
    }

    /// The same after a put at 12.
    fn live_after_a_put() -> Follower {
        let mut follower = live();
        let events = vec![put("b", 12)];
        assert_eq!(follower.step(Input::Events(events.clone())), [Order::Apply(events)]);
        follower
    }

    #[test]
    fn the_list_comes_after_the_watch_so_that_nothing_lies_between() {
        let mut follower = live();
        assert!(follower.step(Input::Events(vec![put("a", 9), put("a", 10)])).is_empty(), "part of the list");
        assert_eq!(follower.step(Input::Events(vec![put("a", 11)])).len(), 1);
    }

    #[test]
    fn an_older_list_than_any_answer_is_refused() {
        let (mut follower, _) = Follower::start();
        follower.step(Input::Created { revision: 10 });
        assert_eq!(follower.step(Input::Listed(list(9, &[]))), [Order::List]);
        assert!(!follower.is_live());
    }

    #[test]
    fn the_events_of_a_revision_are_applied_together() {
        let mut follower = live();
        let orders = follower.step(Input::Events(vec![put("b", 11), gone("a", 11), put("c", 12)]));
        let expected = [Order::Apply(vec![put("b", 11), gone("a", 11)]), Order::Apply(vec![put("c", 12)])];
        assert_eq!(orders, expected);
    }

    #[test]
    fn a_watch_resumes_at_the_last_put_and_goes_on_when_it_shows_that_record() {
        let mut follower = live_after_a_put();
        assert_eq!(follower.step(Input::Cut), [Order::Watch { from: 12 }]);
        assert!(follower.step(Input::Created { revision: 14 }).is_empty());
        assert!(!follower.is_live());
        let orders = follower.step(Input::Events(vec![put("b", 12), gone("a", 13)]));
        assert_eq!(orders, [Order::Apply(vec![gone("a", 13)])]);
        assert!(follower.is_live());
    }

    #[test]
    fn another_record_at_that_revision_is_another_store() {
        let another_lease = Event::Put(Entry { lease: 78, ..entry("b", 12) });
        for first in [put("c", 12), put("b", 13), gone("b", 12), another_lease] {
            let mut follower = live_after_a_put();
            follower.step(Input::Cut);
            follower.step(Input::Created { revision: 14 });
            assert_eq!(follower.step(Input::Events(vec![first])), [Order::Watch { from: 0 }]);
        }
    }

    #[test]
    fn a_store_behind_us_is_read_anew() {
        let mut follower = live_after_a_put();
        follower.step(Input::Progress { revision: 20 });
        follower.step(Input::Cut);
        assert_eq!(follower.step(Input::Created { revision: 19 }), [Order::Watch { from: 0 }]);
    }

    #[test]
    fn progress_without_the_record_means_that_it_is_not_there() {
        let mut follower = live_after_a_put();
        follower.step(Input::Cut);
        follower.step(Input::Created { revision: 30 });
        assert_eq!(follower.step(Input::Progress { revision: 30 }), [Order::Watch { from: 0 }]);
    }

    #[test]
    fn after_a_removal_or_a_list_or_a_record_without_lease_everything_is_read_anew() {
        let without_lease = Event::Put(Entry { lease: 0, ..entry("c", 13) });
        for last in [gone("a", 13), without_lease] {
            let mut follower = live_after_a_put();
            follower.step(Input::Events(vec![last]));
            assert_eq!(follower.step(Input::Cut), [Order::Watch { from: 0 }]);
        }
        assert_eq!(live().step(Input::Cut), [Order::Watch { from: 0 }]);
        let mut together = live();
        together.step(Input::Events(vec![put("b", 11), gone("a", 11)]));
        assert_eq!(together.step(Input::Cut), [Order::Watch { from: 0 }]);
    }

    #[test]
    fn compaction_is_answered_with_a_new_list() {
        let mut resumed = live_after_a_put();
        resumed.step(Input::Cut);
        resumed.step(Input::Created { revision: 14 });
        assert_eq!(resumed.step(Input::Compacted), [Order::Watch { from: 0 }]);
        assert_eq!(live_after_a_put().step(Input::Compacted), [Order::Watch { from: 0 }]);
    }

    #[test]
    fn a_second_cut_resumes_at_the_same_place() {
        let mut follower = live_after_a_put();
        follower.step(Input::Cut);
        assert_eq!(follower.step(Input::Cut), [Order::Watch { from: 12 }]);
    }

    /// What an audit of this list orders at once.
    fn audit(follower: &mut Follower, listing: Listing) -> Vec<Order> {
        assert!(follower.step(Input::Auditing).is_empty());
        follower.step(Input::Audited(listing))
    }

    const ANEW: [Order; 2] = [Order::Distrust, Order::Watch { from: 0 }];

    #[test]
    fn an_audit_that_agrees_says_nothing() {
        let mut follower = live_after_a_put();
        assert!(audit(&mut follower, list(15, &[("a", 9), ("b", 12)])).is_empty());
        assert!(follower.step(Input::Progress { revision: 15 }).is_empty());
        assert!(follower.is_live() && follower.revision() == 15);
    }

    #[test]
    fn an_audit_waits_for_what_is_under_way_and_then_finds_what_was_missed() {
        let mut follower = live_after_a_put();
        assert!(audit(&mut follower, list(15, &[("b", 12), ("c", 14)])).is_empty());
        assert_eq!(follower.step(Input::Events(vec![put("c", 14)])), [Order::Apply(vec![put("c", 14)])]);
        // The removal of `a` never came, though the watch is past it.
        assert_eq!(follower.step(Input::Events(vec![put("d", 16)])), ANEW);
        assert!(!follower.is_live());
    }

    #[test]
    fn an_audit_that_is_overtaken_while_it_is_read_still_compares() {
        for (listed, orders) in
            [(list(13, &[("a", 9), ("b", 12)]), vec![]), (list(13, &[("b", 12)]), ANEW.into())]
        {
            let mut follower = live_after_a_put();
            follower.step(Input::Auditing);
            follower.step(Input::Events(vec![gone("b", 14), put("c", 15)]));
            assert_eq!(follower.step(Input::Audited(listed)), orders);
        }
    }

    #[test]
    fn what_comes_late_is_ignored() {
        let mut follower = live();
        for late in [Input::Created { revision: 99 }, Input::Listed(list(99, &[]))] {
            assert!(follower.step(late).is_empty());
        }
        assert_eq!(follower.revision(), 10);
    }
}
