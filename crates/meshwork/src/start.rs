//! The walk of starting: bind, serve unready, start components, warm up, wait for readiness, announce.
//!
//! Every step has a name and a deadline: what hangs is named, and the first failure is the one that is told.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use meshwork_core::{BoxError, Error, Instance, Task};
use meshwork_server::{Identity, Server, Services, Serving};
use tokio::{
    select,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    Handle, RunError,
    advertise::Offer,
    announce::announce,
    bind::{self, Bound, Listening, Origin},
    check::Check,
    component::Components,
    drift,
    follow::{self, Following},
    handle::Shared,
    handover::{Handover, Socket},
    hooks::Hook,
    settings, standing,
    wiring::Wiring,
};

/// What a started app holds.
pub(crate) struct Running {
    pub(crate) serving: Option<Serving>,
    /// Follows the configuration: ends as soon as it leaves.
    pub(crate) configuration: Following,
    /// Announces and withdraws as the readiness says: must have ended before it leaves.
    pub(crate) readiness: Option<Task>,
    /// Hands notices to the webhook: ends last, with a budget of its own.
    pub(crate) webhook: Task,
    /// Ask and look as long as it lives.
    pub(crate) watchers: Vec<Task>,
    /// Offers the listeners to a successor, as long as it lives.
    pub(crate) offer: Option<Task>,
}

/// One start: what is under way, and until when it must be done.
pub(crate) struct Start<'a> {
    shared: &'a Arc<Shared>,
    wiring: &'a Arc<Wiring>,
    limit: Duration,
    until: Instant,
    step: Mutex<Box<str>>,
}

/// An app that could serve, before the registry knows of it.
struct Prepared {
    serving: Option<Serving>,
    /// Served by somebody else, or waiting, until we are ready.
    later: Vec<Bound>,
    handover: Option<(Handover, Vec<Socket>)>,
    configuration: Following,
    webhook: Task,
    /// The board, and the checks.
    watchers: Vec<Task>,
    instance: Instance,
    offers: Vec<Offer>,
    identity: Identity,
}

/// The wiring of an app, judged in whole.
///
/// # Errors
/// The first mistake in the configuration or in what the code handed to the app.
pub(crate) fn wired(shared: &Shared) -> Result<Arc<Wiring>, RunError> {
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
    Ok(wiring)
}

fn serve(serving: Serving, bound: Bound) -> Serving {
    serving.also(bound.listener, bound.services)
}

/// Descriptors of all sockets, for a successor.
fn sockets(bound: &[Bound]) -> Result<Vec<Socket>, RunError> {
    let descriptor = |bound: &Bound| Ok((bound.name, bound.listener.descriptor()?));
    let sockets: io::Result<_> = bound.iter().map(descriptor).collect();
    sockets.map_err(|e| RunError::Start { step: "offering the sockets".into(), cause: e.into() })
}

impl<'a> Start<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, wiring: &'a Arc<Wiring>) -> Self {
        let limit = wiring.config.service().start_timeout;
        Self { shared, wiring, limit, until: Instant::now() + limit, step: Mutex::default() }
    }

    /// Starts everything; `Err(None)` = asked to stop meanwhile. Whatever was begun is undone when this returns an error,
    /// except for `components`, which are the caller's to stop.
    pub(crate) async fn all(
        &self,
        services: Services,
        warm_up: Vec<Hook>,
        checks: Vec<Check>,
        components: &mut Components,
    ) -> Result<Running, Option<RunError>> {
        let prepared = select! {
            prepared = self.prepare(services, warm_up, checks, components) => prepared?,
            _stop = self.shared.control.asked() => {
                let step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
                tracing::info!(%step, "asked to stop while starting");
                return Err(None);
            }
        };
        let Prepared {
            serving,
            later,
            handover,
            configuration,
            webhook,
            mut watchers,
            instance,
            offers,
            identity,
        } = prepared;
        let mut readiness = None;
        if !instance.endpoints.is_empty() {
            watchers.extend(announce(self.shared, self.wiring, &identity, instance).await?);
            readiness = standing::spawn(self.shared, self.wiring, identity);
            if self.wiring.parts.registry.is_some() {
                watchers.extend(drift::spawn(self.shared, self.wiring, offers));
            }
        }
        watchers.push(self.shared.stalls.spawn());
        self.shared.health.set_serving(true);
        let serving = serving.map(|serving| later.into_iter().fold(serving, serve));
        let offer = match (handover, &serving) {
            (Some((handover, sockets)), Some(serving)) => {
                Some(handover.finish(self.shared, self.wiring, serving.listeners(), sockets).await)
            }
            _ => None,
        };
        Ok(Running { serving, configuration, readiness, webhook, watchers, offer })
    }

    /// Starts the components, one after the other.
    ///
    /// # Errors
    /// The first that failed, by its name.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the one that is starting; those before it have started.
    pub(crate) async fn components(&self, components: &mut Components) -> Result<(), RunError> {
        while let Some(name) = components.next() {
            self.begins(format!("component `{name}`"));
            let handle = Handle::new(Arc::clone(self.shared));
            components.start_next(handle, self.until).await.map_err(|failure| self.failed(failure))?;
        }
        Ok(())
    }

    /// Binds, serves unready, starts components, warms up.
    async fn prepare(
        &self,
        services: Services,
        warm_up: Vec<Hook>,
        checks: Vec<Check>,
        components: &mut Components,
    ) -> Result<Prepared, RunError> {
        let (shared, wiring) = (self.shared, self.wiring);
        self.begins("following the configuration");
        let configuration = follow::spawn(shared, wiring).map_err(|e| self.failed(e))?;
        let webhook = wiring.webhook.spawn(&shared.notices);
        let mut watchers = vec![shared.notices.spawn()];
        let Listening { bound, handover } =
            self.within("binding the listeners", bind::all(wiring, services)).await??;
        shared.set_bound(bound.iter().map(|bound| bound.listener.local_addr()).collect());

        let offers = bind::offers(&bound);
        let mut instance = bind::record(wiring, &offers)?;
        let identity = Identity::new();
        identity.set([(&instance.service, &instance.id)]);
        let descriptors = handover.is_some().then(|| sockets(&bound)).transpose()?;
        let handover = handover.zip(descriptors);
        let settings = settings::server(&wiring.config)?;
        let any = !bound.is_empty();
        // Who connects to a socket that others know already is a caller, and not to be met before we are ready.
        let (now, later): (Vec<_>, Vec<_>) = bound.into_iter().partition(|b| b.origin == Origin::Own);
        let serving = any.then(|| {
            let server = Server::new(settings, identity.clone(), shared.health.clone());
            now.into_iter().fold(server.begin(), serve)
        });

        self.components(components).await?;
        let handle = Handle::new(Arc::clone(shared));
        watchers.extend(checks.into_iter().map(|check| check.spawn(&handle)));
        for hook in warm_up {
            self.begins(hook.name());
            let handle = Handle::new(Arc::clone(shared));
            hook.run(handle, self.until).await.map_err(|failure| self.failed(failure))?;
        }
        self.eager().await?;
        self.parts().await?;
        shared.apply_changes(&mut instance);
        Ok(Prepared {
            serving,
            later,
            handover,
            configuration,
            webhook,
            watchers,
            instance,
            offers,
            identity,
        })
    }

    /// Waits for the first answer about every client with `eager = true`; fails on none.
    async fn eager(&self) -> Result<(), RunError> {
        let config = &self.wiring.config;
        for (service, client) in config.clients().filter(|(_, client)| client.eager) {
            self.begins(format!("eager channel to `{service}`"));
            let channel = self.wiring.channels.get(service)?;
            let limit = config.registry().start_timeout.max(client.connect_timeout);
            match timeout(limit, channel.ready()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(self.failed(error)),
                Err(elapsed) => return Err(self.failed(elapsed)),
            }
        }
        Ok(())
    }

    /// Waits until every named part is ready.
    async fn parts(&self) -> Result<(), RunError> {
        let health = &self.shared.health;
        self.begins("waiting for readiness");
        if timeout_at(self.until, health.parts_ready()).await.is_ok() {
            return Ok(());
        }
        let missing: Vec<_> = health.not_ready().iter().map(|part| format!("`{part}`")).collect();
        self.begins(format!("waiting for readiness of {}", missing.join(", ")));
        Err(self.overran())
    }

    /// Bounds a step that has no limit of its own.
    async fn within<T>(&self, step: &str, work: impl Future<Output = T>) -> Result<T, RunError> {
        self.begins(step);
        timeout_at(self.until, work).await.map_err(|_elapsed| self.overran())
    }

    fn begins(&self, step: impl Into<Box<str>>) {
        let step = step.into();
        tracing::debug!(%step, "starting");
        *self.step.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    fn failed(&self, cause: impl Into<BoxError>) -> RunError {
        if Instant::now() >= self.until {
            // Whatever limit it met first, this is the one to look at.
            return self.overran();
        }
        RunError::Start { step: self.now(), cause: cause.into() }
    }

    fn overran(&self) -> RunError {
        let limit = self.limit;
        let text = format!("not done when `service.start_timeout` ({limit:?}) had passed");
        RunError::Start { step: self.now(), cause: Error::unavailable(text).into() }
    }

    fn now(&self) -> Box<str> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
