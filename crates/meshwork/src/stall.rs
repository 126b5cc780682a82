//! Notices that the runtime stood still: code that blocks its threads, or a process that was paused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use meshwork_core::Task;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How often it is looked; seldom, so that an idle process stays idle.
const LOOK: Duration = Duration::from_secs(2);
/// A look that comes so much too late was held up.
const LATE: Duration = Duration::from_secs(1);
/// The least time between two lines about it.
const QUIET: Duration = Duration::from_secs(30);

/// How often the runtime stood still.
#[derive(Clone, Default)]
pub(crate) struct Stalls(Arc<AtomicU64>);

impl Stalls {
    pub(crate) fn total(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Looks as long as the task lives.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn spawn(&self) -> Task {
        let stalls = self.clone();
        let handle = tokio::spawn(async move {
            let mut told: Option<Instant> = None;
            loop {
                let began = Instant::now();
                sleep(LOOK).await;
                let late = began.elapsed().saturating_sub(LOOK);
                if late < LATE {
                    continue;
                }
                let total = stalls.0.fetch_add(1, Relaxed) + 1;
                if told.is_none_or(|told| told.elapsed() >= QUIET) {
                    told = Some(Instant::now());
                    tracing::warn!(
                        ?late,
                        total,
                        "runtime stood still: something blocks its threads, or the process was paused"
                    );
                }
            }
        });
        Task::new("stalls", CancellationToken::new(), handle)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{task::yield_now, time::advance};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_standstill_is_counted_and_mere_lateness_is_not() {
        let stalls = Stalls::default();
        let _looking = stalls.spawn();
        yield_now().await;
        for (gap, total) in [(LOOK, 0), (LOOK + LATE / 2, 0), (LOOK + LATE, 1), (LOOK, 1), (LOOK * 30, 2)] {
            advance(gap).await;
            yield_now().await;
            assert_eq!(stalls.total(), total, "after {gap:?}");
        }
    }
}
