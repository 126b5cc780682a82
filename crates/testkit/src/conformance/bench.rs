//! What a behaviour works with: processes over the rig's server, instances, and waiting for conditions with a limit.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use meshwork_core::{
    Backend, Catalog, Departure, Discovery, ErrorChain, ErrorKind, Instance, InstanceId, Parts, Query,
    Registration, RegistrationState, Registry, ServiceName, Snapshot, Status, Watch,
};
use tokio::{
    task::AbortHandle,
    time::{self, Instant},
};

use super::{
    flaw::{Flaw, Proof, ensure},
    rig::{AnyRig, Counted, Deed, Limits, Linked},
    stage::Seat,
};

/// Times are judged with this slack: machines are noisy.
pub(super) const SLACK: u32 = 4;
/// For what has no limit of its own.
pub(super) const LONG: Duration = Duration::from_secs(30);
/// How long something is watched that must not happen.
pub(super) const QUIET: Duration = Duration::from_millis(700);

/// The rig, and names that no other behaviour uses.
pub(super) struct Bench {
    rig: Arc<dyn AnyRig>,
    pub(super) limits: Limits,
    salt: String,
    seat: Option<Seat>,
    notes: Arc<Mutex<Vec<String>>>,
}

/// One process: an opened backend of its own.
pub(super) struct Process {
    registry: Option<Arc<dyn Registry>>,
    discovery: Option<Arc<dyn Discovery>>,
    pub(super) catalog: Option<Arc<dyn Catalog>>,
    pub(super) description: Box<str>,
}

/// Several instances of one service.
pub(super) struct Crowd {
    pub(super) service: ServiceName,
    pub(super) ids: BTreeSet<InstanceId>,
    /// Empty where the list is closed.
    pub(super) registrations: Vec<Registration>,
    _process: Option<Process>,
}

/// Every view that a watch has shown since.
pub(super) struct Trail {
    views: Arc<Mutex<Vec<Snapshot>>>,
    task: AbortHandle,
}

// === impl Bench ===

impl Bench {
    pub(super) fn new(
        rig: Arc<dyn AnyRig>,
        limits: Limits,
        salt: String,
        seat: Option<Seat>,
        notes: Arc<Mutex<Vec<String>>>,
    ) -> Self {
        Self { rig, limits, salt, seat, notes }
    }

    /// A name that no other behaviour uses.
    pub(super) fn service(&self, tail: &str) -> ServiceName {
        name(&format!("c{}-{tail}", self.salt))
    }

    /// An instance in the rig's environment, at an address of its own.
    pub(super) fn instance(&self, service: &ServiceName) -> Instance {
        static PORTS: AtomicU16 = AtomicU16::new(0);
        let port = 1024 + PORTS.fetch_add(1, Ordering::Relaxed) % 30_000;
        let mut instance = Instance::new(service.clone());
        instance.env = self.rig.env().into();
        instance.endpoints.push(endpoint(&format!("http://127.0.0.1:{port}")));
        instance
    }

    /// Another process over the rig's server.
    pub(super) fn open(&self) -> Result<Process, Flaw> {
        Process::over(&*self.rig.backend())
    }

    /// Another process whose link can be cut.
    pub(super) async fn open_linked(&self) -> Result<(Process, Linked), Flaw> {
        let linked = self.rig.linked().await?;
        Ok((Process::over(linked.backend())?, linked))
    }

    /// Another process whose counters can be read.
    pub(super) fn open_counted(&self) -> Result<(Process, Counted), Flaw> {
        let counted = self.rig.counted()?;
        Ok((Process::over(&*counted.backend)?, counted))
    }

    /// A backend that is not opened yet.
    pub(super) fn backend(&self) -> Box<dyn Backend> {
        self.rig.backend()
    }

    /// Skips the behaviour where only listed services are known.
    pub(super) fn is_open(&self) -> Proof {
        if self.rig.listed().is_empty() {
            return Ok(());
        }
        Err(Flaw::Skipped("its list of services is closed: one that it lacks is an error".into()))
    }

    /// A service with instances: `count` that are announced now, or those that a closed list has.
    pub(super) async fn crowd(&self, count: usize) -> Result<Crowd, Flaw> {
        if let Some(listed) = self.rig.listed().pop() {
            let ids = listed.ids.into_iter().collect();
            return Ok(Crowd { service: listed.service, ids, registrations: Vec::new(), _process: None });
        }
        let (process, service) = (self.open()?, self.service("crowd"));
        let registrations: Vec<Registration> =
            (0..count).map(|_| process.register(self.instance(&service))).collect::<Result<_, _>>()?;
        for registration in &registrations {
            live(registration).await?;
        }
        let ids = registrations.iter().map(Registration::id).collect();
        Ok(Crowd { service, ids, registrations, _process: Some(process) })
    }

    pub(super) async fn act(&self, deed: Deed) -> Proof {
        let text = deed.to_string();
        match time::timeout(LONG * 2, self.rig.act(deed)).await {
            Ok(done) => Ok(done?),
            Err(_elapsed) => Err(Flaw::Failed(format!("the rig did not manage to {text} in time"))),
        }
    }

    /// Waits until all who go through the disaster are ready, and it has come (or, the second time, passed).
    pub(super) async fn step(&mut self) -> Proof {
        match &mut self.seat {
            Some(seat) => seat.step().await,
            None => Err(Flaw::Failed("invariant: only a staged behaviour takes part in a disaster".into())),
        }
    }

    /// Leaves. A registry that is merely too slow on a busy machine is given the time to live, after which nothing may
    /// be left either; `leaving_is_quick` judges the time where nothing else runs.
    pub(super) async fn leave(&self, registration: Registration) -> Proof {
        self.depart(registration, Departure::Marked).await
    }

    /// The same, with the mark or without.
    pub(super) async fn depart(&self, registration: Registration, how: Departure) -> Proof {
        let begun = Instant::now();
        match time::timeout(LONG, registration.depart(how)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error))
                if error.kind() == ErrorKind::Unavailable && begun.elapsed() > self.limits.leave / 3 =>
            {
                self.note(format!("leaving was not confirmed in {:.1?}", begun.elapsed()));
                time::sleep((self.limits.ttl + self.limits.returned) * 2).await;
                Ok(())
            }
            Ok(Err(error)) => Err(Flaw::Failed(format!("leaving failed: {}", ErrorChain(&*error)))),
            Err(_elapsed) => Err(Flaw::Failed(format!("leaving took longer than {LONG:?}"))),
        }
    }

    fn note(&self, text: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// Notes a time for the report and judges it with slack.
    pub(super) fn judge(&self, what: &str, took: Duration, limit: Duration) -> Proof {
        let text = format!("{what} after {took:.0?} (limit {limit:.0?})");
        ensure!(took <= limit * SLACK, "{text}");
        self.note(text);
        Ok(())
    }

    /// Waits until the view is as `check` says, as long as a change may take to be seen.
    pub(super) async fn see(
        &self,
        watch: &Watch,
        what: &str,
        check: impl Fn(&Snapshot) -> bool,
    ) -> Result<Snapshot, Flaw> {
        let begun = Instant::now();
        let view = until(watch, LONG, what, check).await?;
        // The rest of the suite runs at the same time: the bound of a change is judged where nothing else runs.
        ensure!(
            begun.elapsed() <= self.limits.seen * SLACK * 4,
            "{what}: only after {:.0?}",
            begun.elapsed()
        );
        Ok(view)
    }

    /// Waits until the view is fresh and names exactly these.
    pub(super) async fn shows(
        &self,
        watch: &Watch,
        ids: impl IntoIterator<Item = &InstanceId>,
    ) -> Result<Snapshot, Flaw> {
        let wanted: BTreeSet<&InstanceId> = ids.into_iter().collect();
        let what = format!("the view shows [{}]", list(wanted.iter().copied()));
        self.see(watch, &what, |view| view.staleness().is_fresh() && names(view, &wanted)).await
    }
}

/// Whether a view that was read names exactly these.
pub(super) fn names(view: &Snapshot, ids: &BTreeSet<&InstanceId>) -> bool {
    let seen: BTreeSet<&InstanceId> = view.value().iter().map(|instance| &instance.id).collect();
    view.known().is_some() && seen == *ids && view.value().len() == ids.len()
}

/// The instance of a view with this id.
pub(super) fn find<'a>(view: &'a Snapshot, id: &InstanceId) -> Option<&'a Instance> {
    view.value().iter().find(|instance| instance.id == *id).map(|instance| &**instance)
}

/// Waits until the view is as `check` says.
pub(super) async fn until(
    watch: &Watch,
    limit: Duration,
    what: &str,
    check: impl Fn(&Snapshot) -> bool,
) -> Result<Snapshot, Flaw> {
    let mut watch = watch.clone();
    let met = async {
        loop {
            let view = watch.changed().await;
            if check(&view) {
                return view;
            }
        }
    };
    match time::timeout(limit, met).await {
        Ok(view) => Ok(view),
        Err(_elapsed) => {
            let text = format!("never in {limit:?}: {what}; the view is {}", shown(&watch.latest()));
            Err(Flaw::Failed(text))
        }
    }
}

/// Waits until something is so.
pub(super) async fn eventually(
    limit: Duration,
    what: &str,
    check: impl Fn() -> bool,
) -> Result<Duration, Flaw> {
    let begun = Instant::now();
    let looked = crate::truth::eventually(limit, what, || async { check() }).await;
    looked.map(|()| begun.elapsed()).map_err(|e| Flaw::Failed(e.to_string()))
}

/// Waits until the registration is in the state of this name.
pub(super) async fn state(
    registration: &Registration,
    wanted: &str,
    limit: Duration,
) -> Result<Duration, Flaw> {
    let begun = Instant::now();
    let mut states = registration.state();
    match time::timeout(limit, states.wait_for(|state| state.as_str() == wanted)).await {
        Ok(Ok(_)) => Ok(begun.elapsed()),
        Ok(Err(_closed)) => Err(Flaw::Failed(format!("the keeper ended before it was {wanted}"))),
        Err(_elapsed) => {
            let now = described(&registration.state().borrow());
            Err(Flaw::Failed(format!("the registration is not {wanted} after {limit:?} but {now}")))
        }
    }
}

/// Waits until the registration is announced.
pub(super) async fn live(registration: &Registration) -> Proof {
    match time::timeout(LONG, registration.live()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Flaw::Failed(format!("announcing failed: {}", ErrorChain(&*error)))),
        Err(_elapsed) => {
            let now = described(&registration.state().borrow());
            Err(Flaw::Failed(format!("not announced after {LONG:?}: {now}")))
        }
    }
}

/// A view in few words.
pub(super) fn shown(view: &Snapshot) -> String {
    let cause = view.staleness().cause().map(|cause| format!(" ({})", ErrorChain(&**cause)));
    let sure = match view.staleness() {
        state if state.is_fresh() => "fresh",
        state if state.is_pending() => "pending",
        _ => "stale",
    };
    let ids = view.value().iter().map(|instance| &instance.id);
    let cause = cause.unwrap_or_default();
    format!("{sure}{cause}, generation {}, [{}]", view.generation(), list(ids))
}

fn described(state: &RegistrationState) -> String {
    let cause = match state {
        RegistrationState::Pending { cause: Some(cause) } | RegistrationState::Lost { cause, .. } => {
            format!(" ({})", ErrorChain(&**cause))
        }
        RegistrationState::Gone { outcome: Err(cause) } => format!(" ({})", ErrorChain(&**cause)),
        _ => String::new(),
    };
    format!("{}{cause}", state.as_str())
}

fn list<'a>(ids: impl Iterator<Item = &'a InstanceId>) -> String {
    let ids: Vec<&str> = ids.map(InstanceId::as_str).collect();
    match ids.len() {
        0..=8 => ids.join(", "),
        many => format!("{}, … {many} in all", ids[..6].join(", ")),
    }
}

pub(super) fn name(text: &str) -> ServiceName {
    ServiceName::new(text).expect("invariant: the suite uses only names that are names")
}

pub(super) fn endpoint(text: &str) -> meshwork_core::Endpoint {
    text.parse().expect("invariant: the suite uses only endpoints that are endpoints")
}

// === impl Process ===

impl Process {
    /// Opens a backend.
    pub(super) fn over(backend: &dyn Backend) -> Result<Self, Flaw> {
        let opened = backend.open();
        let parts = opened.map_err(|e| Flaw::Failed(format!("opening failed: {}", ErrorChain(&e))))?;
        let Parts { registry, discovery, catalog, description, .. } = parts;
        Ok(Self { registry, discovery, catalog, description })
    }

    pub(super) fn watch(&self, service: &ServiceName) -> Result<Watch, Flaw> {
        self.ask(&Query::new(service.clone()))
    }

    pub(super) fn ask(&self, query: &Query) -> Result<Watch, Flaw> {
        match &self.discovery {
            Some(discovery) => Ok(discovery.watch(query)),
            None => Err(Flaw::Skipped("it finds nothing".into())),
        }
    }

    pub(super) fn register(&self, instance: Instance) -> Result<Registration, Flaw> {
        match &self.registry {
            Some(registry) => Ok(registry.register(instance)),
            None => Err(Flaw::Skipped("it announces nothing".into())),
        }
    }

    /// Registers and waits until it is live.
    pub(super) async fn announce(&self, instance: Instance) -> Result<Registration, Flaw> {
        let registration = self.register(instance)?;
        live(&registration).await?;
        Ok(registration)
    }
}

// === impl Trail ===

impl Trail {
    pub(super) fn of(watch: &Watch) -> Self {
        let (mut watch, views) = (watch.clone(), Arc::<Mutex<Vec<Snapshot>>>::default());
        let seen = Arc::clone(&views);
        let following = async move {
            loop {
                let view = watch.changed().await;
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(view);
            }
        };
        Self { views, task: tokio::spawn(following).abort_handle() }
    }

    pub(super) fn views(&self) -> Vec<Snapshot> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every status that this instance was seen with, and `None` where it was absent, without repetitions.
    pub(super) fn statuses(&self, id: &InstanceId) -> Vec<Option<Status>> {
        let mut seen: Vec<_> =
            self.views().iter().map(|view| find(view, id).map(|instance| instance.status)).collect();
        seen.dedup();
        seen
    }

    /// Whether this instance was in every view since it was first.
    pub(super) fn never_misses(&self, id: &InstanceId) -> Proof {
        let views = self.views();
        let missed =
            views.iter().skip_while(|view| find(view, id).is_none()).find(|view| find(view, id).is_none());
        match missed {
            None => Ok(()),
            Some(view) => Err(Flaw::Failed(format!("`{id}` was absent in between: {}", shown(view)))),
        }
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Flaw ===

impl fmt::Debug for Bench {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bench").field("salt", &self.salt).finish_non_exhaustive()
    }
}
