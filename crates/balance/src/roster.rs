//! The members of one snapshot after another, copied as little as may be.

use std::{fmt, sync::Arc};

use crate::Member;

/// So many members that are not wanted are passed over in search of one that is.
const AHEAD: usize = 4;

/// Makes the list of members of each snapshot, from the one before last where it can.
///
/// A client reads one list while the next is made, so there are two of them: the one that was replaced is brought up
/// to date when its turn comes again (left-right concurrency; Ramalhete and Correia, 2015). A change then costs a look
/// at each member, or moving it where members came or went, and counts no references.
///
/// What it holds back lives on until the next change: [`forget`](Self::forget) it when nodes left.
///
/// ```
/// # use std::sync::Arc;
/// # use meshwork_balance::{Member, Roster};
/// # let members: Vec<Member> = Vec::new();
/// let mut roster = Roster::default();
/// let first: Arc<[Member]> = roster.list(members.iter());
/// let second = roster.list(members.iter());
/// roster.take_back(first);
/// ```
#[derive(Default)]
pub struct Roster {
    spare: Option<Arc<[Member]>>,
}

impl Roster {
    /// The members of `wanted`, in its order.
    pub fn list<'a>(&mut self, wanted: impl ExactSizeIterator<Item = &'a Member> + Clone) -> Arc<[Member]> {
        let Some(mut spare) = self.spare.take() else { return wanted.cloned().collect() };
        let Some(members) = Arc::get_mut(&mut spare) else { return wanted.cloned().collect() };
        // Nearly always the same nodes stay.
        let restated = |(member, wanted): (&mut Member, &Member)| {
            if member.is(wanted) {
                return true;
            }
            let stays = member.has_node_of(wanted);
            if stays {
                *member = wanted.clone();
            }
            stays
        };
        if members.len() == wanted.len() && members.iter_mut().zip(wanted.clone()).all(restated) {
            return spare;
        }
        let mut from = 0;
        let moved = wanted.map(|wanted| {
            let ahead = members[from..].iter_mut().take(AHEAD).position(|member| member.is(wanted));
            ahead.map_or_else(
                || wanted.clone(),
                |ahead| {
                    from += ahead + 1;
                    members[from - 1].take()
                },
            )
        });
        moved.collect()
    }

    /// Takes back a list that was replaced. Of use only once nobody else holds it.
    pub fn take_back(&mut self, list: Arc<[Member]>) {
        self.spare = Some(list);
    }

    /// Lets go of what was taken back.
    pub fn forget(&mut self) {
        self.spare = None;
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster").field("spare", &self.spare.as_ref().map(|spare| spare.len())).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Weak};

    use meshwork_core::{Instance, InstanceId, ServiceName};

    use super::*;
    use crate::{Arrival, Node, NodeKey, Now, Peers};

    /// Members by a number that is also their weight, as a client's book keeps them.
    struct Book {
        peers: Arc<Peers>,
        entries: BTreeMap<u16, Member>,
    }

    impl Book {
        fn put(&mut self, number: u16) {
            let id = InstanceId::new(format!("users-{number:05}")).unwrap();
            let instance = Arc::new(Instance::with_id(ServiceName::new("users").unwrap(), id));
            let key = NodeKey::new([format!("grpc://10.0.{}.{}:80", number / 250, number % 250 + 1)
                .parse()
                .unwrap()]);
            let before = self.entries.get(&number).map(|member| Arc::clone(member.node()));
            let arrival = Arrival::new(Now::from_nanos(1));
            let node = before.unwrap_or_else(|| Node::new(key, Arc::new(()), &self.peers, arrival));
            self.entries.insert(number, Member::with_weight(node, instance, number));
        }

        fn is(&self, list: &[Member]) -> bool {
            list.len() == self.entries.len() && list.iter().zip(self.entries.values()).all(|(a, b)| a.is(b))
        }
    }

    #[test]
    fn a_list_is_what_is_wanted_whatever_came_went_or_changed_before() {
        let mut book = Book { peers: Peers::new(|| Now::from_nanos(1)), entries: BTreeMap::new() };
        (0..100).for_each(|number| book.put(number * 10));
        let (mut roster, mut seed) = (Roster::default(), 7u64);
        let mut current = roster.list(book.entries.values());
        let mut reader = None;
        for round in 0..500 {
            for _ in 0..=round % 7 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let number = (seed >> 33) as u16 % 1000;
                match seed >> 62 {
                    0 | 1 => book.put(number),
                    2 => drop(book.entries.remove(&number)),
                    _ => book.entries.retain(|other, _| other / 30 != number / 30),
                }
            }
            let next = roster.list(book.entries.values());
            assert!(book.is(&next), "round {round}");
            // Now and then somebody still reads the old one.
            if round % 5 == 0 {
                reader = Some(Arc::clone(&current));
            }
            roster.take_back(std::mem::replace(&mut current, next));
            if let Some(reader) = &reader {
                reader.iter().for_each(|member| assert!(!member.instance().id.as_str().is_empty()));
            }
        }
    }

    #[test]
    fn a_change_copies_what_changed_and_nothing_else() {
        let mut book = Book { peers: Peers::new(|| Now::from_nanos(1)), entries: BTreeMap::new() };
        (0..1000).for_each(|number| book.put(number));
        let mut roster = Roster::default();
        let (first, second) = (roster.list(book.entries.values()), roster.list(book.entries.values()));
        let (untouched, place) = (Arc::clone(first[3].node()), first.as_ptr());
        let counted = Arc::strong_count(&untouched);
        roster.take_back(first);
        book.put(500);
        let third = roster.list(book.entries.values());
        assert!(third.as_ptr() == place && book.is(&third));
        roster.take_back(second);
        book.put(2000);
        drop(book.entries.remove(&7));
        drop(book.entries.remove(&8));
        let fourth = roster.list(book.entries.values());
        assert!(book.is(&fourth));
        assert_eq!(Arc::strong_count(&untouched), counted);
    }

    #[test]
    fn what_is_forgotten_is_let_go() {
        let mut book = Book { peers: Peers::new(|| Now::from_nanos(1)), entries: BTreeMap::new() };
        book.put(1);
        let mut roster = Roster::default();
        let list = roster.list(book.entries.values());
        let gone: Weak<Node> = Arc::downgrade(list[0].node());
        roster.take_back(list);
        book.entries.clear();
        roster.forget();
        assert!(gone.upgrade().is_none());
    }
}
