//! The one task that drives a backend while any subscription or claim lives.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use meshwork_core::{Drive, ErrorChain, Task};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use crate::{Dice, Healing, Stats, backoff::Backoff, shield::shield};

/// A claim lost this soon after the drive ended was lost with the registry, not for a reason of its own.
const TOGETHER: Duration = Duration::from_secs(2);

/// Starts the drive for the first who needs it, and knows the flight that is under way.
#[derive(Default)]
pub(crate) struct Pilot {
    flight: Mutex<Weak<Flight>>,
}

/// A drive under way; it ends when the last holder drops it.
pub(crate) struct Flight {
    task: Task,
    health: Arc<Health>,
}

struct Health {
    began: Instant,
    /// Milliseconds since `began`, plus one, of the last end of the drive; 0 = it never ended.
    lost: AtomicU64,
}

impl Pilot {
    /// The flight under way, or a new one on this runtime.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn engage<B: Drive>(
        &self,
        backend: &Arc<B>,
        healing: &Healing,
        stats: &Arc<Stats>,
        dice: impl FnOnce() -> Dice,
    ) -> Arc<Flight> {
        let mut flight = self.flight.lock().unwrap_or_else(PoisonError::into_inner);
        // A flight whose runtime has ended is over, though somebody may still hold it.
        if let Some(under_way) = flight.upgrade().filter(|flight| !flight.task.is_finished()) {
            return under_way;
        }
        let health = Arc::new(Health { began: Instant::now(), lost: AtomicU64::new(0) });
        let drive =
            drive(Arc::clone(backend), healing.clone(), dice(), Arc::clone(stats), Arc::clone(&health));
        let task = Task::new("registry drive", CancellationToken::new(), tokio::spawn(drive));
        let new = Arc::new(Flight { task, health });
        *flight = Arc::downgrade(&new);
        new
    }
}

impl Flight {
    /// Whether the registry as a whole was lost just now.
    pub(crate) fn is_away(&self, now: Instant) -> bool {
        match self.health.lost.load(Relaxed) {
            0 => false,
            lost => {
                let lost = self.health.began + Duration::from_millis(lost - 1);
                now.saturating_duration_since(lost) <= TOGETHER
            }
        }
    }
}

async fn drive<B: Drive>(
    backend: Arc<B>,
    healing: Healing,
    mut dice: Dice,
    stats: Arc<Stats>,
    health: Arc<Health>,
) {
    let mut backoff = Backoff::new();
    // Leases live only while there is a connection: it must be tried more often than they end.
    let healing = Healing { cap: healing.cap.min(healing.ttl / 4), ..healing };
    loop {
        backoff.works(Instant::now());
        let driven = shield(backend.drive(), || "driving the registry".to_owned()).await;
        let error = driven.unwrap_or_else(|panicked| panicked);
        let now = Instant::now();
        let lost = now.duration_since(health.began).as_millis() as u64;
        health.lost.store(lost + 1, Relaxed);
        stats.drives_lost.add(1);
        let retry_in = backoff.failed(error.kind(), &healing, &mut dice, now);
        // The views and registrations that suffer tell people; this is for whoever looks closer.
        tracing::debug!(error = %ErrorChain(&error), ?retry_in, "connection to the registry ended");
        time::sleep(retry_in).await;
    }
}
