//! The walks of an app's life: start and announce, then leave, settle, drain and stop.
//!
//! Start: bind, serve unready, warm up, announce, `Serving`. Stop: `Leaving` (unready, withdrawn, settle),
//! `Draining` (listeners closed, calls finish), hooks in reverse, channels last.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use futures_util::future::join_all;
use meshwork_client::Channel;
use meshwork_core::{Error, ErrorChain, Instance, Phase, Task};
use meshwork_server::{DrainReport, Identity, Server, Services, Serving};
use tokio::{
    select,
    time::{Instant, timeout},
};

use crate::{
    App, Handle, Report, RunError,
    announce::{DEREGISTER, announce},
    banner, bind,
    control::Stop,
    follow,
    handle::Shared,
    hooks::{Hook, Hooks},
    settings, signal,
    wiring::Wiring,
};

/// The most that one `on_stop` hook may take.
const HOOK: Duration = Duration::from_secs(5);
/// What a hook gets even when the drain has used up its deadline.
const LAST_BREATH: Duration = Duration::from_millis(100);

/// Whether the runner listens for SIGINT and SIGTERM.
pub(crate) enum Signals {
    Listen,
    Ignore,
}

/// Runs `app` until something asks it to stop.
pub(crate) async fn run(
    app: App,
    until: impl Future<Output = ()>,
    signals: Signals,
) -> Result<Report, RunError> {
    let App { shared, services, hooks } = app;
    let Hooks { warm_up, on_serving, on_stop } = hooks;
    let control = shared.control.clone();
    let _signals = match signals {
        Signals::Listen => Some(listen(&shared)?),
        Signals::Ignore => None,
    };
    let mut until = pin!(until);
    let began = Instant::now();
    let mut until_over = false;
    let mut starting = pin!(start(&shared, services, warm_up));
    let started = loop {
        select! {
            started = &mut starting => break started,
            () = &mut until, if !until_over => {
                until_over = true;
                control.stop("serve_until");
            }
        }
    };
    let running = match started {
        Ok(running) => running,
        Err(fault) => {
            control.enter(Phase::Stopped);
            if let Some(fault) = fault {
                return Err(fault);
            }
            let stop = control.asked().await;
            tracing::info!(cause = %stop.cause, "stopped before it served");
            return Ok(Report { cause: stop.cause, took: stop.since.elapsed(), ..Report::default() });
        }
    };
    control.enter(Phase::Serving);
    banner::show(&shared, &running.wiring, began.elapsed());
    let handle = Handle::new(Arc::clone(&shared));
    let mut faults = Vec::new();
    let mut turn = pin!(serving_hooks(on_serving, &handle));
    let mut hooks_done = false;
    let stop = loop {
        select! {
            stop = control.asked() => break stop,
            () = &mut until, if !until_over => {
                until_over = true;
                control.stop("serve_until");
            }
            result = &mut turn, if !hooks_done => {
                hooks_done = true;
                if let Err(error) = result {
                    let error = ErrorChain(&*error);
                    tracing::error!(%error, "`on_serving` hook failed, stopping");
                    faults.push(format!("on_serving: {error}"));
                    control.stop("a failed `on_serving` hook");
                }
            }
        }
    };
    Ok(leave(&shared, running, stop, on_stop, faults).await)
}

fn listen(shared: &Arc<Shared>) -> Result<Task, RunError> {
    signal::spawn(shared)
        .map_err(|e| RunError::Start { step: "listening for signals".into(), cause: e.into() })
}

/// What a started app holds.
struct Running {
    wiring: Arc<Wiring>,
    serving: Option<Serving>,
    configuration: Task,
    _identity: Vec<Task>,
}

/// An app that could serve, before the registry knows of it.
struct Prepared {
    wiring: Arc<Wiring>,
    serving: Option<Serving>,
    configuration: Task,
    instance: Instance,
    identity: Identity,
}

/// `Err(None)` = asked to stop meanwhile. Whatever was begun is undone when this returns an error.
async fn start(
    shared: &Arc<Shared>,
    services: Services,
    warm_up: Vec<Hook>,
) -> Result<Running, Option<RunError>> {
    let prepared = select! {
        prepared = prepare(shared, services, warm_up) => prepared?,
        _stop = shared.control.asked() => return Err(None),
    };
    let Prepared { wiring, serving, configuration, instance, identity } = prepared;
    let announced = match instance.endpoints.is_empty() {
        true => Vec::new(),
        false => announce(shared, &wiring, identity, instance).await?,
    };
    shared.health.set_serving(true);
    Ok(Running { wiring, serving, configuration, _identity: announced })
}

/// Wires, binds, serves unready, warms up.
async fn prepare(shared: &Arc<Shared>, services: Services, warm_up: Vec<Hook>) -> Result<Prepared, RunError> {
    let wired = shared.lazy.get().cloned();
    if let Some(fault) = shared.lazy.take_fault() {
        return Err(fault);
    }
    let Some(wiring) = wired else {
        return Err(RunError::Setup(Error::invalid("configuration could not be read, as reported before")));
    };
    wiring.config.check_sections()?;
    for ignored in wiring.config.ignored_variables() {
        let meant = ignored.meant.as_deref().unwrap_or_default();
        tracing::warn!(variable = %ignored.name, meant, "environment variable ignored");
    }
    let configuration = follow::spawn(shared, &wiring);
    let bound = bind::all(&wiring, services).await?;
    shared.set_bound(bound.iter().map(|bound| bound.listener.local_addr()).collect());

    let mut instance = bind::record(&wiring, &bound)?;
    let identity = Identity::new();
    identity.set([(&instance.service, &instance.id)]);
    let mut bound = bound.into_iter();
    let serving = bound.next().map(|first| {
        let server = Server::new(settings::server(&wiring.config), identity.clone(), shared.health.clone());
        let serving = server.serve(first.listener, first.services);
        bound.fold(serving, |serving, bound| serving.also(bound.listener, bound.services))
    });

    let handle = Handle::new(Arc::clone(shared));
    for (place, hook) in warm_up.into_iter().enumerate() {
        let step = || format!("`warm_up` hook {}", place + 1).into();
        hook(handle.clone()).await.map_err(|cause| RunError::Start { step: step(), cause })?;
    }
    eager(&wiring).await?;
    shared.health.parts_ready().await;
    shared.apply_changes(&mut instance);
    Ok(Prepared { wiring, serving, configuration, instance, identity })
}

/// Waits for the first answer about every client with `eager = true`; fails on none.
async fn eager(wiring: &Wiring) -> Result<(), RunError> {
    for (service, client) in wiring.config.clients().filter(|(_, client)| client.eager) {
        let step = || format!("eager channel to `{service}`").into();
        let channel = wiring.channels.get(service)?;
        let limit = wiring.config.registry().start_timeout.max(client.connect_timeout);
        match timeout(limit, channel.ready()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(RunError::Start { step: step(), cause: error.into() }),
            Err(elapsed) => return Err(RunError::Start { step: step(), cause: elapsed.into() }),
        }
    }
    Ok(())
}

async fn serving_hooks(hooks: Vec<Hook>, handle: &Handle) -> Result<(), meshwork_core::BoxError> {
    for hook in hooks {
        hook(handle.clone()).await?;
    }
    Ok(())
}

/// The walk of stopping; nothing in it may fail, only be reported.
async fn leave(
    shared: &Arc<Shared>,
    running: Running,
    stop: Stop,
    hooks: Vec<Hook>,
    mut faults: Vec<String>,
) -> Report {
    let Running { wiring, serving, configuration, _identity } = running;
    // Who leaves follows nothing any more.
    drop(configuration);
    let drain = wiring.config.drain();
    let (settled, deadline) = (stop.since + drain.settle, stop.since + drain.deadline);
    tracing::info!(cause = %stop.cause, settle = ?drain.settle, deadline = ?drain.deadline, "stopping");

    shared.control.enter(Phase::Leaving);
    shared.health.set_serving(false);
    if let Some(serving) = &serving {
        serving.leave();
    }
    let announced = shared.take_registrations();
    let settle = !announced.is_empty();
    let leaving = announced.into_iter().map(|registration| timeout(DEREGISTER, registration.deregister()));
    for left in join_all(leaving).await {
        match left {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = ErrorChain(&*error);
                tracing::warn!(%error, "leaving was not confirmed, the record ends with its time to live");
                faults.push(format!("deregistration: {error}"));
            }
            Err(_elapsed) => faults.push(format!("deregistration: no answer within {DEREGISTER:?}")),
        }
    }
    if settle {
        // Others need a moment to notice; what they still send is served.
        tokio::time::sleep_until(settled).await;
    }

    shared.control.enter(Phase::Draining);
    let drained = match serving {
        Some(serving) => serving.drain(deadline).await,
        None => DrainReport::default(),
    };
    for (place, hook) in hooks.into_iter().enumerate().rev() {
        let budget = deadline.saturating_duration_since(Instant::now()).clamp(LAST_BREATH, HOOK);
        let name = format!("`on_stop` hook {}", place + 1);
        match timeout(budget, hook(Handle::new(Arc::clone(shared)))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => faults.push(format!("{name}: {}", ErrorChain(&*error))),
            Err(_elapsed) => faults.push(format!("{name}: not done within {budget:?}, given up")),
        }
    }
    let channels = wiring.channels.drain();
    let _unfinished = timeout(LAST_BREATH, join_all(channels.iter().map(Channel::close))).await;
    shared.control.enter(Phase::Stopped);
    report(stop, &drained, faults)
}

fn report(stop: Stop, drained: &DrainReport, faults: Vec<String>) -> Report {
    let mut cut: Vec<_> = drained.cut.iter().map(ToString::to_string).collect();
    let unnamed = drained.cut_total.saturating_sub(cut.len());
    if unnamed > 0 {
        cut.push(format!("{unnamed} more"));
    }
    let (took, finished) = (stop.since.elapsed(), drained.finished);
    let report = Report { cause: stop.cause, took, finished, cut, faults };
    if report.is_clean() {
        tracing::info!(took = ?report.took, finished = report.finished, "stopped");
    } else {
        tracing::warn!(took = ?report.took, finished = report.finished, cut = ?report.cut,
            faults = ?report.faults, "stopped, not everything finished");
    }
    report
}
