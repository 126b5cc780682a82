//! The life of an app from its first step to its last: start, serve or run one job, stop.

use std::{convert::Infallible, env, future::pending, sync::Arc, time::Duration};

use meshwork_core::{BoxError, Error, ErrorChain, Phase};
use meshwork_server::{Identity, InProcess, Services};
use tokio::{pin, select, time::Instant};

use crate::{
    App, Handle, Report, RunError,
    args::{self, Command},
    awake::{self, Awake},
    banner,
    check::Check,
    component::Components,
    contain::Contained,
    flush,
    handle::Shared,
    hooks::{Hook, Hooks},
    job, notify, settings, signal,
    start::{self, Start},
    stop::{self, Life, Losses},
    tasks::Tasks,
    wiring::Wiring,
};

/// How long systemd may take to hear the last word.
const TELLING: Duration = Duration::from_millis(100);
/// The exit code of an app that stopped because an `on_serving` hook failed.
const HOOK_FAILED: u8 = 5;

/// Whether the runner listens for SIGINT and SIGTERM, and reads the command line.
pub(crate) enum Signals {
    Listen(notify::Share),
    Ignore,
}

/// Runs `app` until something asks it to stop.
pub(crate) async fn run(
    app: App,
    until: impl Future<Output = ()>,
    signals: Signals,
) -> Result<Report, RunError> {
    let control = app.shared.control.clone();
    let until = async {
        until.await;
        control.stop("serve_until");
        pending::<Infallible>().await
    };
    pin!(until);
    let outcome = select! {
        outcome = live(app, signals) => outcome,
        never = until => match never {},
    };
    control.enter(Phase::Stopped);
    outcome
}

async fn live(app: App, signals: Signals) -> Result<Report, RunError> {
    let App { shared, services, reflection, mut hooks, mut components, jobs, tasks, checks, args } = app;
    let args = match (args, &signals) {
        (Some(args), _) => args,
        (None, Signals::Listen(_)) => env::args_os().skip(1).collect(),
        (None, Signals::Ignore) => Vec::new(),
    };
    let command = Command::read(args)?;
    if command == Command::Help {
        print!("{}", args::help(&jobs));
        return Ok(Report { cause: "--help".into(), ..Report::default() });
    }
    let _signals = match &signals {
        Signals::Listen(_) => Some(listen(&shared)?),
        Signals::Ignore => None,
    };
    let wiring = start::wired(&shared)?;
    components.arrange()?;
    tasks.judge()?;
    judge(&checks)?;
    let services = reflection.tell(services, reflects(&wiring))?;
    let job = match command {
        Command::Job(name) => Some(jobs.take(&name)?),
        _ => None,
    };
    let on_flush = std::mem::take(&mut hooks.on_flush);
    let spare = flush::budget(wiring.config.drain(), &on_flush);
    let mut awake = None;
    let mut outcome = match job {
        Some(job) => job::run(&shared, &wiring, components, job, spare).await,
        None => {
            let declared = Declared { services, hooks, components, tasks, checks, spare };
            serve(&shared, &wiring, declared, signals, &mut awake).await
        }
    };
    let began = Instant::now();
    let lost = flush::all(&shared, on_flush, spare).await;
    if let Ok(report) = &mut outcome {
        report.took += began.elapsed();
        report.faults.extend(lost);
    }
    outcome
}

/// The services of `app`, as they would be at a port.
pub(crate) fn in_process(app: App) -> Result<InProcess, RunError> {
    let App { shared, services, reflection, .. } = app;
    let wiring = start::wired(&shared)?;
    let services = reflection.tell(services, reflects(&wiring))?;
    let identity = Identity::new();
    identity.set([(&wiring.service, &wiring.id)]);
    shared.health.set_serving(true);
    Ok(InProcess::new(settings::server(&wiring.config)?, identity, shared.health.clone(), services))
}

/// Whether gRPC services are told to whoever asks.
fn reflects(wiring: &Wiring) -> bool {
    wiring.config.service().reflection.unwrap_or(wiring.config.is_development())
}

fn listen(shared: &Arc<Shared>) -> Result<signal::Listening, RunError> {
    signal::spawn(shared)
        .map_err(|e| RunError::Start { step: "listening for signals".into(), cause: e.into() })
}

/// What an author declared for the time while it serves.
struct Declared {
    services: Services,
    hooks: Hooks,
    components: Components,
    tasks: Tasks,
    checks: Vec<Check>,
    spare: Duration,
}

fn judge(checks: &[Check]) -> Result<(), Error> {
    for (at, check) in checks.iter().enumerate() {
        check.judge()?;
        if checks[..at].iter().any(|other| other.name() == check.name()) {
            return Err(Error::invalid(format!("two checks are named `{}`", check.name())));
        }
    }
    Ok(())
}

async fn serve(
    shared: &Arc<Shared>,
    wiring: &Arc<Wiring>,
    declared: Declared,
    signals: Signals,
    awake: &mut Option<Awake>,
) -> Result<Report, RunError> {
    let Declared { services, hooks, mut components, tasks, checks, spare } = declared;
    let control = &shared.control;
    let began = Instant::now();
    let owns_process = matches!(signals, Signals::Listen(_));
    let manager = match signals {
        Signals::Listen(share) => notify::spawn(shared, share),
        Signals::Ignore => None,
    };
    let Hooks { warm_up, on_serving, on_stop, .. } = hooks;
    let started = Start::new(shared, wiring).all(services, warm_up, checks, &mut components).await;
    let running = match started {
        Ok(running) => running,
        Err(fault) => return undo(shared, wiring, components, fault, spare).await,
    };
    control.enter(Phase::Serving);
    banner::show(shared, wiring, began.elapsed());
    let tasks = tasks.spawn(&Handle::new(Arc::clone(shared)));
    let (mut losses, mut runs) = (Losses::default(), None);
    let stop = {
        let hooks = serving_hooks(on_serving, shared, &mut losses, &mut runs);
        pin!(hooks);
        select! {
            stop = control.asked() => stop,
            never = hooks => match never {},
        }
    };
    let deadline = stop.since + wiring.config.drain().deadline;
    *awake = Some(awake::spawn(owns_process.then(|| deadline.into_std())));
    let life = Life { running, tasks, on_stop, components, spare, on_serving: runs };
    let report = stop::leave(shared, wiring, life, stop, losses).await;
    if let Some(manager) = manager {
        // It may not have been heard yet that we stop.
        manager.end(TELLING).await;
    }
    Ok(report)
}

/// Stops what had started when a later step failed, or when it was asked to stop meanwhile (`fault` is `None`).
async fn undo(
    shared: &Arc<Shared>,
    wiring: &Wiring,
    components: Components,
    fault: Option<RunError>,
    spare: Duration,
) -> Result<Report, RunError> {
    let mut losses = Losses::default();
    let since = shared.control.wish().map_or_else(Instant::now, |stop| stop.since);
    let deadline = since + wiring.config.drain().deadline - spare;
    stop::put_away(shared, components.into_stops(), deadline, &mut losses).await;
    if let Some(fault) = fault {
        // The first cause is the one to tell; what followed from it has been logged.
        return Err(fault);
    }
    let stop = shared.control.asked().await;
    tracing::info!(cause = %stop.cause, "stopped before it served");
    let Losses { cut, faults, stuck } = losses;
    let took = stop.since.elapsed();
    Ok(Report { cause: stop.cause, took, cut, faults, stuck, failed: stop.code, ..Report::default() })
}

/// Runs them one after the other; the first that fails stops the app. The one under way is in `runs`.
async fn serving_hooks(
    hooks: Vec<Hook>,
    shared: &Arc<Shared>,
    losses: &mut Losses,
    runs: &mut Option<(String, Contained)>,
) -> Infallible {
    for hook in hooks {
        let name = hook.name().to_owned();
        let (_, hook) = runs.insert((name.clone(), hook.begin(Handle::new(Arc::clone(shared)))));
        let ended = hook.ended().await;
        *runs = None;
        if let Err(failure) = ended {
            let cause: BoxError = failure.into();
            let error = ErrorChain(&*cause);
            tracing::error!(%error, "{name} failed, stopping");
            losses.faults.push(format!("{name}: {error}"));
            shared.control.fail(&format!("failed {name}"), HOOK_FAILED);
            break;
        }
    }
    pending().await
}
