//! One after the other, skipping what cannot take a call.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::{Member, Pick, Picked, Picker, Policy, Reason, draw::candidates, pinned, ticket::Admission};

/// Each member in its turn, whatever its weight (but for weight 0), load and latency. Ejected nodes are
/// skipped. For workloads of equal calls on equal nodes; [`P2c`](crate::P2c) is better for all others.
#[derive(Clone, Debug, Default)]
pub struct RoundRobin(());

struct Turns {
    members: Arc<[Member]>,
    /// The places of the members that get calls; `None` = all.
    places: Option<Box<[u32]>>,
    next: AtomicUsize,
}

impl Policy for RoundRobin {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        let (places, _) = candidates(&members);
        Box::new(Turns { members, places, next: AtomicUsize::new(0) })
    }
}

impl Turns {
    fn len(&self) -> usize {
        self.places.as_ref().map_or(self.members.len(), |places| places.len())
    }

    fn member(&self, turn: usize) -> &Member {
        let place = turn % self.len();
        &self.members[self.places.as_ref().map_or(place, |places| places[place] as usize)]
    }
}

impl Picker for Turns {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        if let Some(answer) = pinned::pick(&self.members, pick) {
            return answer;
        }
        if self.len() == 0 {
            return Picked::Nothing(Reason::Empty);
        }
        let panicking = self.members[0].node().peers().is_panicking();
        let strict = if panicking { Admission::Any } else { Admission::Strict };
        // First as it should be, then without regard to health, at last without regard to what was tried.
        for (admission, again) in [(strict, false), (Admission::Any, false), (Admission::Any, true)] {
            for _ in 0..self.len() {
                let member = self.member(self.next.fetch_add(1, Relaxed));
                if !again && pick.avoid.contains(member.node().key()) {
                    continue;
                }
                if let Some(ticket) = member.node().begin_with(pick.now, admission) {
                    return Picked::Take(member, ticket);
                }
            }
        }
        Picked::Wait
    }
}
