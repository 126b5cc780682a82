//! Keeps the runtime turning while an app stops, whatever blocks its threads.
//!
//! A worker of tokio that found work while it watched the timers and sockets watches them no more, and one that has
//! nothing to do takes that over only when it is woken. A handler that never gives its thread back may so stop every
//! timer of the process though other workers are free, and nobody is left whom the deadline could wake.

use std::{
    process,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::runtime::Handle;

use crate::exit;

/// How often a worker is woken.
const NUDGE: Duration = Duration::from_millis(25);
/// A runtime that does not turn for so long has no thread left.
const DEAD: Duration = Duration::from_secs(1);
/// The exit code of an app that was asked to stop and was cut.
const CUT: u8 = 6;

/// Wakes the runtime as long as it lives.
pub(crate) struct Awake {
    _end: mpsc::Sender<()>,
}

/// Begins to wake the runtime. After `deadline`, where there is one, the process is ended when every thread of the runtime
/// is blocked, so that nobody can end it well, and no other app lives in it.
///
/// # Panics
/// Outside a tokio runtime.
pub(crate) fn spawn(deadline: Option<Instant>) -> Awake {
    let (end, ended) = mpsc::channel();
    let runtime = Handle::current();
    let run = move || {
        let turns = Arc::new(AtomicBool::new(true));
        let mut turned = Instant::now();
        while ended.recv_timeout(NUDGE) == Err(RecvTimeoutError::Timeout) {
            if turns.swap(false, Relaxed) {
                turned = Instant::now();
                let turns = Arc::clone(&turns);
                runtime.spawn(async move { turns.store(true, Relaxed) });
                continue;
            }
            let is_over = deadline.is_some_and(|deadline| Instant::now() > deadline);
            if is_over && turned.elapsed() > DEAD && exit::is_last() {
                tracing::error!("every thread of the runtime is blocked, ending at the deadline");
                process::exit(CUT.into());
            }
        }
    };
    // It ends with the answer; nobody waits for it.
    if let Err(error) = thread::Builder::new().name("awake".into()).spawn(run) {
        tracing::warn!(%error, "threads that are blocked may hold the stop up");
    }
    Awake { _end: end }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::mpsc, thread, time::Duration};

    use tokio::{
        runtime,
        sync::oneshot,
        time::{sleep, timeout},
    };

    /// Of two workers one never gives its thread back: the one that watched the timers.
    #[test]
    fn a_timer_fires_though_the_worker_that_watched_it_is_blocked() {
        let (release, released) = mpsc::channel::<()>();
        let (end, ended) = mpsc::channel();
        let run = async move {
            let (began, begun) = oneshot::channel();
            tokio::spawn(async move {
                // Woken by a timer, so that it runs where they were watched.
                sleep(Duration::from_millis(20)).await;
                began.send(()).unwrap();
                let _released = released.recv();
            });
            begun.await.unwrap();
            let _awake = super::spawn(None);
            timeout(Duration::from_millis(50), pending::<()>()).await.unwrap_err();
            end.send(()).unwrap();
        };
        // On a thread of its own: what this is about could hold it for ever.
        thread::spawn(|| {
            let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            runtime.unwrap().block_on(run);
        });
        ended.recv_timeout(Duration::from_secs(20)).expect("timers stand still");
        drop(release);
    }
}
