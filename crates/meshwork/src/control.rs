//! The phase of an app and the wish to stop it, shared by the runner, the handle and the signals.

use std::sync::Arc;

use meshwork_core::Phase;
use meshwork_server::Health;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// Shared by clone.
#[derive(Clone)]
pub(crate) struct Control {
    phase: Arc<watch::Sender<Phase>>,
    wish: Arc<watch::Sender<Option<Stop>>>,
    stopping: CancellationToken,
    draining: CancellationToken,
    /// Tells the phase to whoever asks over the network.
    health: Health,
}

/// The wish to stop: why, and since when; the first one counts.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    pub(crate) cause: Box<str>,
    pub(crate) since: Instant,
    /// The exit code, where it was no wish but a failure.
    pub(crate) code: Option<u8>,
}

impl Control {
    pub(crate) fn new(health: Health) -> Self {
        health.set_phase(Phase::Starting);
        Self {
            health,
            phase: Arc::new(watch::Sender::new(Phase::Starting)),
            wish: Arc::new(watch::Sender::new(None)),
            stopping: CancellationToken::new(),
            draining: CancellationToken::new(),
        }
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn phases(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Phases only go forward.
    pub(crate) fn enter(&self, phase: Phase) {
        let entered = self.phase.send_if_modified(|now| {
            let forward = phase > *now;
            if forward {
                *now = phase;
            }
            forward
        });
        if entered {
            tracing::info!(%phase, "phase");
            self.health.set_phase(phase);
            if phase >= Phase::Draining {
                self.draining.cancel();
            }
        }
    }

    pub(crate) fn stop(&self, cause: &str) {
        self.ask(cause, None);
    }

    /// Stops because something failed that the app cannot do without.
    pub(crate) fn fail(&self, cause: &str, code: u8) {
        self.ask(cause, Some(code));
    }

    fn ask(&self, cause: &str, code: Option<u8>) {
        self.wish.send_if_modified(|wish| {
            let first = wish.is_none();
            wish.get_or_insert_with(|| Stop { cause: cause.into(), since: Instant::now(), code });
            first
        });
        self.stopping.cancel();
    }

    /// Cancelled as soon as somebody asked to stop.
    pub(crate) fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Cancelled when calls are not taken any more.
    pub(crate) fn draining(&self) -> CancellationToken {
        self.draining.clone()
    }

    /// The wish to stop, if anybody has it.
    pub(crate) fn wish(&self) -> Option<Stop> {
        self.wish.borrow().clone()
    }

    /// Waits for the wish to stop. Cancel-safe.
    pub(crate) async fn asked(&self) -> Stop {
        self.stopping.cancelled().await;
        self.wish().unwrap_or_else(|| Stop { cause: "stop".into(), since: Instant::now(), code: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_wish_counts_and_phases_never_go_back() {
        let control = Control::new(Health::new());
        control.stop("SIGTERM");
        control.stop("handle");
        assert_eq!(&*control.asked().await.cause, "SIGTERM");
        control.enter(Phase::Draining);
        control.enter(Phase::Serving);
        assert_eq!(control.phase(), Phase::Draining);
    }
}
