//! What every connection and request of a server reads: its settings, its stage and its counters.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst},
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Health, Identity, ServerConfig,
    drain::{Cut, MAX_CUTS},
    places::Places,
};

/// How far a server has gone on its way out; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    Serving,
    /// Serving, but HTTP/1 answers say `connection: close`.
    Leaving,
    /// No listener; connections end after what is in flight.
    Draining,
    /// The deadline is near: gRPC streams are told and ended.
    Ending,
    /// Whatever is left is dropped.
    Cut,
}

/// One per server; connections hold it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: ServerConfig,
    pub(crate) identity: Identity,
    pub(crate) health: Health,
    pub(crate) counters: Counters,
    pub(crate) places: Arc<Places>,
    /// Cancelled when the drain begins. Only for what is not on the path of each request.
    pub(crate) draining: CancellationToken,
    /// Cancelled when nobody is accepted any more: with the drain at the latest.
    pub(crate) closed: CancellationToken,
    /// Cancelled at the cut; ends what took a connection over.
    pub(crate) cut: CancellationToken,
    /// Counts accept loops and sockets, those that linger included.
    pub(crate) sockets: TaskTracker,
    /// Told whenever a request is dropped by the cut.
    pub(crate) dropped: Notify,
    stage: AtomicU8,
    drain_began: OnceLock<Instant>,
    cuts: Mutex<(Vec<Cut>, usize)>,
}

/// Plain counters, read by [`Stats`](crate::Stats).
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Connections open now, without those that linger.
    pub(crate) open: AtomicUsize,
    pub(crate) accepted: AtomicU64,
    pub(crate) over_limit: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
    pub(crate) timed_out: AtomicU64,
    pub(crate) handshakes_failed: AtomicU64,
    /// Requests begun on connections that are closed by now.
    pub(crate) closed_requests: AtomicU64,
    pub(crate) panics: AtomicU64,
    pub(crate) deadlines: AtomicU64,
    pub(crate) draining: AtomicU64,
    pub(crate) misdirected: AtomicU64,
    pub(crate) told: AtomicUsize,
    /// Work that handlers have detached and that runs now.
    pub(crate) detached: AtomicUsize,
    pub(crate) wasted: AtomicU64,
    pub(crate) connections_aged: AtomicU64,
    pub(crate) streams_aged: AtomicU64,
}

impl Shared {
    pub(crate) fn new(config: ServerConfig, identity: Identity, health: Health) -> Self {
        let draining = CancellationToken::new();
        Self {
            places: Places::new(&config),
            config,
            identity,
            health,
            counters: Counters::default(),
            closed: draining.child_token(),
            draining,
            cut: CancellationToken::new(),
            sockets: TaskTracker::new(),
            dropped: Notify::new(),
            stage: AtomicU8::new(Stage::Serving as u8),
            drain_began: OnceLock::new(),
            cuts: Mutex::default(),
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Relaxed) {
            0 => Stage::Serving,
            1 => Stage::Leaving,
            2 => Stage::Draining,
            3 => Stage::Ending,
            _ => Stage::Cut,
        }
    }

    /// Moves on to `stage`; going back is ignored.
    pub(crate) fn enter(&self, stage: Stage) {
        if stage >= Stage::Draining {
            self.drain_began.get_or_init(Instant::now);
        }
        self.stage.fetch_max(stage as u8, SeqCst);
        if stage >= Stage::Draining {
            self.draining.cancel();
        }
        if stage == Stage::Cut {
            self.cut.cancel();
        }
    }

    /// When the drain began, if it has.
    pub(crate) fn drain_began(&self) -> Option<Instant> {
        self.drain_began.get().copied()
    }

    /// Notes one thing that was cut.
    pub(crate) fn report(&self, cut: Cut) {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        cuts.1 += 1;
        if cuts.0.len() < MAX_CUTS {
            cuts.0.push(cut);
        }
    }

    /// What was cut so far, and how many in all.
    pub(crate) fn take_cuts(&self) -> (Vec<Cut>, usize) {
        std::mem::take(&mut *self.cuts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_only_go_forward() {
        let shared = Shared::new(ServerConfig::default(), Identity::new(), Health::new());
        shared.enter(Stage::Draining);
        shared.enter(Stage::Leaving);
        assert_eq!(shared.stage(), Stage::Draining);
        assert!(shared.draining.is_cancelled() && !shared.cut.is_cancelled());
        shared.enter(Stage::Cut);
        assert!(shared.cut.is_cancelled());
    }
}
