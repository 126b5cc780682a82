//! Tells systemd, where it runs us as `Type=notify`: ready, stopping, and that the runtime is alive (`WatchdogSec=`).

use std::{
    env,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    time::Duration,
};

use meshwork_core::{Phase, Task};
use sd_notify::NotifyState;
use tokio::{
    select, task,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use crate::handle::Shared;

/// The apps of this process that do not serve yet, and those that have not left: systemd knows them as one.
static STARTING: AtomicUsize = AtomicUsize::new(0);
static STAYING: AtomicUsize = AtomicUsize::new(0);

/// One app's share of what systemd is told, from before it begins.
pub(crate) struct Share {
    starting: bool,
    staying: bool,
}

impl Share {
    pub(crate) fn new() -> Self {
        STARTING.fetch_add(1, SeqCst);
        STAYING.fetch_add(1, SeqCst);
        Self { starting: true, staying: true }
    }

    /// It serves: says whether it was the last that did not.
    fn serves(&mut self) -> bool {
        std::mem::take(&mut self.starting) && STARTING.fetch_sub(1, SeqCst) == 1
    }

    /// It leaves: says whether it was the last that had not.
    fn leaves(&mut self) -> bool {
        std::mem::take(&mut self.staying) && STAYING.fetch_sub(1, SeqCst) == 1
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.serves();
        self.leaves();
    }
}

/// Tells the phases, and twice in each watchdog time that tasks run, as long as the task lives; `None` where nobody listens.
///
/// The variables are left in place: a child that is told of the socket cannot speak for us, since systemd looks at who sends.
pub(crate) fn spawn(shared: &Shared, mut share: Share) -> Option<Task> {
    env::var_os("NOTIFY_SOCKET")?;
    let mut phases = shared.control.phases();
    let end = CancellationToken::new();
    let ended = end.clone();
    let handle = tokio::spawn(async move {
        let watchdog = sd_notify::watchdog_enabled();
        // A year stands for never: there is no watchdog then.
        let pause = watchdog.map_or(Duration::from_secs(365 * 86_400), |within| within / 2);
        let mut ticks = interval(pause.max(Duration::from_millis(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = Phase::Starting;
        loop {
            let phase = *phases.borrow_and_update();
            if phase != told {
                // A phase may have passed unseen.
                let passed = |turn| (told < turn && phase >= turn).then_some(turn);
                for turn in [Phase::Serving, Phase::Leaving].into_iter().filter_map(passed) {
                    match turn {
                        Phase::Serving if share.serves() => tell(NotifyState::Ready).await,
                        Phase::Leaving if share.leaves() => tell(NotifyState::Stopping).await,
                        _ => {}
                    }
                }
                told = phase;
                tell(NotifyState::Status(phase.as_str())).await;
                continue;
            }
            select! {
                biased;
                changed = phases.changed() => if changed.is_err() { return },
                _ = ticks.tick() => if watchdog.is_some() { tell(NotifyState::Watchdog).await },
                // Last: what has changed is told first.
                () = ended.cancelled() => return,
            }
        }
    });
    Some(Task::new("systemd", end, handle))
}

/// Sends one message, away from the runtime: a socket that nobody reads blocks.
async fn tell(what: NotifyState<'static>) {
    let sent = task::spawn_blocking(move || sd_notify::notify(&[what])).await;
    if let Ok(Err(error)) = sent {
        tracing::debug!(%error, "systemd could not be told");
    }
}
