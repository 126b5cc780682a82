//! The walk of stopping: leave the registry, settle, drain, put away; nothing in it may fail, only be reported.

use std::{collections::VecDeque, future::ready, sync::Arc, time::Duration};

use futures_util::future::{join, join_all};
use meshwork_client::Channel;
use meshwork_core::{ErrorChain, Phase};
use meshwork_server::DrainReport;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::{
    Handle, Report,
    announce::DEREGISTER,
    component::Components,
    contain::{Contained, Failure},
    control::Stop,
    handle::Shared,
    hooks::Hook,
    start::Running,
    tasks::RunningTasks,
    wiring::Wiring,
};

/// What hooks get together even when the drain has used up its deadline.
const LAST_BREATH: Duration = Duration::from_millis(200);
/// What notices that still wait for the webhook get.
const LAST_NOTICES: Duration = Duration::from_millis(500);
/// What the registry may not take away from the drain.
const LEAST_DRAIN: Duration = Duration::from_millis(800);

/// What did not end well on the way.
#[derive(Default)]
pub(crate) struct Losses {
    pub(crate) cut: Vec<String>,
    pub(crate) faults: Vec<String>,
    pub(crate) stuck: bool,
}

/// Everything that is to be stopped.
pub(crate) struct Life {
    pub(crate) running: Running,
    pub(crate) tasks: RunningTasks,
    pub(crate) on_stop: Vec<Hook>,
    pub(crate) components: Components,
    /// What is left of the deadline when it is over.
    pub(crate) spare: Duration,
    /// The `on_serving` hook that has not ended, by its name.
    pub(crate) on_serving: Option<(String, Contained)>,
}

/// Stops what runs. `stop` says since when.
pub(crate) async fn leave(
    shared: &Arc<Shared>,
    wiring: &Wiring,
    life: Life,
    stop: Stop,
    mut losses: Losses,
) -> Report {
    let Life { running, tasks, on_stop, components, spare, on_serving } = life;
    let Running { serving, configuration, readiness, webhook, watchers: _watchers, offer } = running;
    let drain = wiring.config.drain();
    let (settled, deadline) = (stop.since + drain.settle, stop.since + drain.deadline - spare);
    tracing::info!(cause = %stop.cause, settle = ?drain.settle, deadline = ?drain.deadline, "stopping");

    shared.control.enter(Phase::Leaving);
    shared.health.set_serving(false);
    if let Some(serving) = &serving {
        serving.leave();
    }
    // Who leaves follows nothing any more.
    drop(configuration);
    // A registry that does not answer must not cost the calls in flight their time.
    let until = (Instant::now() + DEREGISTER).min(deadline - LEAST_DRAIN);
    if let Some(readiness) = readiness {
        readiness.end(until.saturating_duration_since(Instant::now())).await;
    }
    let announced = deregister(shared, until, &mut losses).await;
    if announced || serving.is_some() {
        // Others need a moment to notice, also those whom somebody else has told of this process: a platform, a
        // load balancer, a list. What they still send is served.
        sleep_until(settled).await;
    }
    // Not sooner: a successor may begin while we settle. Not later: a socket that nobody serves must not listen.
    drop(offer);

    shared.control.enter(Phase::Draining);
    let hooks: Vec<_> = on_stop.into_iter().rev().chain(components.into_stops()).collect();
    let cut_at = deadline - reserve(&hooks, deadline.saturating_duration_since(Instant::now()));
    let calls = async {
        match serving {
            Some(serving) => serving.drain(cut_at).await,
            None => DrainReport::default(),
        }
    };
    let (drained, cut) = join(calls, tasks.end(cut_at)).await;
    cut.iter().for_each(|(name, failure)| losses.note(name, failure));
    losses.stuck |= drained.stuck > 0;
    if let Some((name, hook)) = on_serving
        // It had the time that the calls had, and holds nothing up.
        && let Err(failure) = hook.until(ready(Instant::now())).await
    {
        losses.note(&name, &failure);
    }
    put_away(shared, hooks, deadline, &mut losses).await;
    let channels = wiring.channels.drain();
    let closed = timeout(LAST_BREATH, join_all(channels.iter().map(Channel::close)));
    let _unfinished = join(closed, webhook.end(LAST_NOTICES)).await;
    shared.control.enter(Phase::Stopped);
    report(stop, &drained, losses)
}

/// Takes every record back. Says whether there was any.
async fn deregister(shared: &Shared, until: Instant, losses: &mut Losses) -> bool {
    let announced = shared.take_registrations();
    let any = !announced.is_empty();
    let leaving = announced.into_iter().map(|registration| timeout_at(until, registration.deregister()));
    for left in join_all(leaving).await {
        match left {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = ErrorChain(&*error);
                tracing::warn!(%error, "leaving was not confirmed, the record ends with its time to live");
                losses.faults.push(format!("deregistration: {error}"));
            }
            Err(_elapsed) => losses.faults.push("deregistration: no answer in time".to_owned()),
        }
    }
    any
}

/// What the calls in flight leave to the hooks: their budgets, at most a quarter of what is left.
pub(crate) fn reserve(hooks: &[Hook], left: Duration) -> Duration {
    budgets(hooks).min(left / 4)
}

fn budgets<'a>(hooks: impl IntoIterator<Item = &'a Hook>) -> Duration {
    hooks.into_iter().filter_map(Hook::budget).fold(Duration::ZERO, Duration::saturating_add)
}

/// Runs what puts things away, one after the other, each within its own budget and all of them before `deadline`.
pub(crate) async fn put_away(
    shared: &Arc<Shared>,
    hooks: impl IntoIterator<Item = Hook>,
    deadline: Instant,
    losses: &mut Losses,
) {
    let last = deadline.max(Instant::now() + LAST_BREATH);
    let mut waiting: VecDeque<_> = hooks.into_iter().collect();
    loop {
        let left = last.saturating_duration_since(Instant::now());
        // Where there is too little for all, one that hangs must not take what the others need.
        let share = match u32::try_from(waiting.len()) {
            Ok(count) if budgets(&waiting) > left => left / count.max(1),
            _ => left,
        };
        let Some(hook) = waiting.pop_front() else { return };
        let name = hook.name().to_owned();
        if share.is_zero() {
            tracing::warn!(step = %name, "not run, no time is left");
            losses.cut.push(format!("{name}: not run, no time was left"));
            continue;
        }
        let began = Instant::now();
        match hook.run(Handle::new(Arc::clone(shared)), began + share).await {
            Ok(()) => tracing::debug!(step = %name, took = ?began.elapsed(), "put away"),
            Err(failure) => losses.note(&name, &failure),
        }
    }
}

impl Losses {
    /// Notes and logs that something of the author's failed.
    pub(crate) fn note(&mut self, name: &str, failure: &Failure) {
        let error = ErrorChain(failure);
        tracing::warn!(step = %name, %error, "failed while stopping");
        let list = if failure.is_cut() { &mut self.cut } else { &mut self.faults };
        list.push(format!("{name}: {error}"));
        self.stuck |= failure.is_stuck();
    }
}

fn report(stop: Stop, drained: &DrainReport, losses: Losses) -> Report {
    let mut cut: Vec<_> = drained.cut.iter().map(ToString::to_string).collect();
    let unnamed = drained.cut_total.saturating_sub(cut.len());
    if unnamed > 0 {
        cut.push(format!("{unnamed} more"));
    }
    cut.extend(losses.cut);
    let (took, finished) = (stop.since.elapsed(), drained.finished);
    let (failed, stuck) = (stop.code, losses.stuck);
    let report = Report { cause: stop.cause, took, finished, cut, faults: losses.faults, failed, stuck };
    if report.is_clean() {
        tracing::info!(took = ?report.took, finished = report.finished, "stopped");
    } else {
        tracing::warn!(took = ?report.took, finished = report.finished, code = report.code(), cut = ?report.cut,
            faults = ?report.faults, "stopped, not everything ended well");
    }
    report
}
