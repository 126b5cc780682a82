//! One request in flight on a node: from the pick to its verdict, or to its drop.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use crate::{
    Node, Now,
    latency::Call,
    node::{EJECTED, FULL, PROBED, READY},
};

/// What a failure counts as at least, in nanoseconds: 5 s.
const PENALTY: f64 = 5e9;

/// How a call ended, as far as the node is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The node did its work, whatever it answered.
    Success,
    /// The node or its connection failed: unreachable, broken, unavailable, an internal error.
    Failure,
    /// It says nothing about the node: handed back unsent, refused by our own limits.
    Neutral,
}

/// One request in flight. It counts on its node until it is finished or dropped.
///
/// Keep it in the response body: latency ends at [`answered`](Self::answered) (headers of a stream) or at
/// [`finish`](Self::finish) (a unary call), the verdict comes with the trailers, the end of the body or an
/// error. Dropping it means *cancelled*: never a failure, but when nothing was answered yet, its age by the
/// clock of [`Peers`](crate::Peers) is a lower bound of the latency, so that a caller's own time-out teaches
/// the picker.
#[must_use = "a dropped ticket is a cancelled call"]
pub struct Ticket {
    node: Arc<Node>,
    call: Call,
    answered: bool,
    finished: bool,
    slot: Slot,
}

/// Whether the ticket holds the node's one probe slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    None,
    /// Of a node of which nothing is known.
    Unknown,
    /// Of an ejected node.
    Ejected,
}

/// How strictly a call is admitted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// One probe at a time for an unknown node, none for an ejected one before its time.
    Strict,
    /// There is no better choice: a connection with room is enough.
    Any,
}

impl Node {
    /// Begins a call: counts it in flight and takes the probe slot in one step. `None` when the node has no
    /// usable connection or is full, when it is ejected and its probe is not due, or when it is unknown or
    /// ejected and its one probe is out.
    pub fn begin(self: &Arc<Self>, now: Now) -> Option<Ticket> {
        self.begin_with(now, Admission::Strict)
    }

    pub(crate) fn begin_with(self: &Arc<Self>, now: Now, admission: Admission) -> Option<Ticket> {
        let state = self.state.load(Relaxed);
        if state & (READY | FULL) != READY {
            return None;
        }
        let slot = match (state & EJECTED != 0, self.latency.is_unknown()) {
            (true, _) if self.probe_is_due(now) => Slot::Ejected,
            (true, _) if admission == Admission::Strict => return None,
            (false, true) => Slot::Unknown,
            _ => Slot::None,
        };
        let slot = match slot {
            Slot::None => slot,
            // Taken by another call since we looked.
            _ if self.state.fetch_or(PROBED, Relaxed) & PROBED != 0 => match admission {
                Admission::Strict => return None,
                Admission::Any => Slot::None,
            },
            _ => slot,
        };
        let others = self.inflight.fetch_add(1, Relaxed);
        if others >= self.capacity() {
            self.inflight.fetch_sub(1, Relaxed);
            if slot != Slot::None {
                self.state.fetch_and(!PROBED, Relaxed);
            }
            return None;
        }
        let idle = self.latency.begin(now, others == 0);
        let call = Call { begun: now, idle };
        Some(Ticket { node: Arc::clone(self), call, answered: false, finished: false, slot })
    }
}

impl Ticket {
    /// The node it counts on.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// When the call began.
    pub fn begun(&self) -> Now {
        self.call.begun
    }

    /// Notes the answer's headers: here the latency of a stream ends. Further calls change nothing.
    pub fn answered(&mut self, now: Now) {
        if !self.answered {
            self.answered = true;
            let took = now.nanos_since(self.call.begun);
            self.node.latency.sample(self.call, now, took, took as f64, self.node.peers().median_nanos());
            if self.slot == Slot::Unknown {
                self.free_slot();
            }
        }
    }

    /// Ends the call with its verdict.
    pub fn finish(mut self, now: Now, outcome: Outcome) {
        self.finished = true;
        let took = now.nanos_since(self.call.begun);
        match outcome {
            Outcome::Success => {
                self.answered(now);
                self.node.succeeded(now);
            }
            Outcome::Failure => {
                let value = PENALTY.max(took as f64);
                self.node.latency.sample(self.call, now, took, value, self.node.peers().median_nanos());
                self.node.failed(now, self.slot == Slot::Ejected);
            }
            Outcome::Neutral => {}
        }
    }

    fn free_slot(&mut self) {
        if self.slot != Slot::None {
            self.slot = Slot::None;
            self.node.state.fetch_and(!PROBED, Relaxed);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.finished && !self.answered {
            let now = self.node.peers().clock();
            let took = now.nanos_since(self.call.begun);
            self.node.latency.lower_bound(self.call, now, took, self.node.peers().median_nanos());
        }
        self.free_slot();
        self.node.inflight.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket")
            .field("node", self.node.key())
            .field("begun", &self.call.begun)
            .field("answered", &self.answered)
            .finish_non_exhaustive()
    }
}
