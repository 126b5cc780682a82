//! What a node is to a pick, and what is left to choose when no node is as it should be.

use std::sync::atomic::Ordering::Relaxed;

use crate::{
    Node, Now, Pick, Resort,
    node::{EJECTED, FULL, PROBED, READY},
};

/// For how long a fresh client lets the first try of its only connected node stand alone.
const FIRST_TRY_NANOS: u64 = 20_000_000;

/// What a node is to a pick.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It takes calls.
    Candidate,
    /// It is ejected and its probe is due: this call is it.
    ProbeDue,
    /// Nothing is known of it and its first call is out.
    BeingTried,
    /// It is ejected.
    Ejected,
    /// It has no usable connection.
    Unconnected,
    /// It takes no further call.
    Full,
}

impl Standing {
    pub(crate) fn of(node: &Node, now: Now, panicking: bool) -> Self {
        let state = node.state.load(Relaxed);
        if state & READY == 0 {
            Self::Unconnected
        } else if state & FULL != 0 || node.inflight() >= node.capacity() {
            Self::Full
        } else if panicking {
            Self::Candidate
        } else if state & EJECTED != 0 {
            if state & PROBED == 0 && node.probe_is_due(now) { Self::ProbeDue } else { Self::Ejected }
        } else if state & PROBED != 0 && node.latency.is_unknown() {
            Self::BeingTried
        } else {
            Self::Candidate
        }
    }
}

/// What a search met besides candidates.
#[derive(Default)]
pub(crate) struct Rest {
    tried: Option<(usize, u32)>,
    avoided: Option<usize>,
    ejected: Option<usize>,
    unconnected: bool,
}

impl Rest {
    /// Notes the node at `at`, met in the order of preference.
    pub(crate) fn note(&mut self, at: usize, node: &Node, standing: Standing, avoided: bool) {
        match standing {
            Standing::Unconnected => self.unconnected = true,
            Standing::Full => {}
            _ if avoided => {
                self.avoided.get_or_insert(at);
            }
            Standing::BeingTried => {
                let inflight = node.inflight();
                if self.tried.is_none_or(|(_, fewest)| inflight < fewest) {
                    self.tried = Some((at, inflight));
                }
            }
            Standing::Ejected | Standing::ProbeDue | Standing::Candidate => {
                self.ejected.get_or_insert(at);
            }
        }
    }

    /// The place of the last resort; `None` = the call should wait.
    pub(crate) fn choose<'a>(self, pick: &Pick<'_>, node: impl Fn(usize) -> &'a Node) -> Option<usize> {
        if pick.resort == Resort::None {
            return None;
        }
        if let Some((at, _)) = self.tried {
            // A fresh client must not send all to the first that connected. One that tries again is not fresh.
            let may_wait = self.unconnected && pick.avoid.is_empty() && self.ejected.is_none();
            let waits = may_wait && node(at).latency.unanswered_for(pick.now) < FIRST_TRY_NANOS;
            return (!waits).then_some(at);
        }
        self.ejected.or(self.avoided.filter(|_| pick.resort == Resort::Any))
    }
}
