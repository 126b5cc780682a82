//! What is left of an app after `serve` has taken it.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use meshwork_client::Channel;
use meshwork_core::{Error, Instance, Phase, Registration, RegistrationState, ServiceName};
use meshwork_registry::DualStats;
use meshwork_server::Health;
use tokio::{
    sync::{Notify, watch},
    task,
};
use tokio_util::sync::CancellationToken;

use crate::{
    RunError,
    bell::Bell,
    contain::Threads,
    control::Control,
    live::Reloaded,
    notice::{Notices, board::Board, webhook::WebhookStats},
    stall::Stalls,
    tasks::{Statuses, TaskStatus},
    wiring::Lazy,
};

/// Shared by an app, its handles and its runner.
pub(crate) struct Shared {
    pub(crate) lazy: Lazy,
    pub(crate) control: Control,
    pub(crate) health: Health,
    pub(crate) tasks: Statuses,
    pub(crate) stalls: Stalls,
    pub(crate) notices: Arc<Board>,
    pub(crate) threads: Threads,
    /// Has the configuration read again soon.
    pub(crate) reload: Bell,
    readiness: Notify,
    bound: Mutex<Vec<SocketAddr>>,
    announced: Mutex<Announced>,
}

type InstanceChange = Box<dyn FnOnce(&mut Instance) + Send>;

/// The records before, while and after they are announced.
#[derive(Default)]
struct Announced {
    changes: Vec<InstanceChange>,
    /// One for each service of the process, its own first.
    posts: Vec<Post>,
}

/// One service of the process.
struct Post {
    /// The record as it was registered first.
    instance: Arc<Instance>,
    /// `None` once it has left, or while it is withdrawn.
    registration: Option<Registration>,
    /// Whether it left only until the process is ready again.
    withdrawn: bool,
}

impl Post {
    fn instance(&self) -> Arc<Instance> {
        self.registration.as_ref().map_or_else(|| Arc::clone(&self.instance), Registration::instance)
    }
}

/// Says the same as `of`, as another service.
fn say_the_same(of: &Instance) -> impl FnOnce(&mut Instance) + use<> {
    let of = of.clone();
    move |instance| {
        let (service, id) = (instance.service.clone(), instance.id.clone());
        *instance = of;
        (instance.service, instance.id) = (service, id);
    }
}

impl Announced {
    fn update(&mut self, change: impl FnOnce(&mut Instance) + Send + 'static) {
        let mut registrations = self.posts.iter().filter_map(|post| post.registration.as_ref());
        if let Some(first) = registrations.next() {
            first.update(change);
            let said = first.instance();
            registrations.for_each(|other| other.update(say_the_same(&said)));
        } else if self.posts.is_empty() {
            self.changes.push(Box::new(change));
        } else {
            drop(registrations);
            self.update_withdrawn(change);
        }
    }
}

impl Announced {
    /// Changes what is announced again later.
    fn update_withdrawn(&mut self, change: impl FnOnce(&mut Instance)) {
        let mut posts = self.posts.iter_mut().filter(|post| post.withdrawn);
        if let Some(first) = posts.next() {
            let mut said = (*first.instance).clone();
            change(&mut said);
            say_the_same(&said)(Arc::make_mut(&mut first.instance));
            posts.for_each(|other| say_the_same(&said)(Arc::make_mut(&mut other.instance)));
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Shared ===

impl Shared {
    pub(crate) fn new() -> Self {
        let (notices, health) = (Arc::new(Board::new()), Health::new());
        Self {
            lazy: Lazy::new(Arc::clone(&notices)),
            notices,
            control: Control::new(health.clone()),
            health,
            tasks: Statuses::default(),
            stalls: Stalls::default(),
            threads: Threads::default(),
            reload: Bell::default(),
            readiness: Notify::new(),
            bound: Mutex::default(),
            announced: Mutex::default(),
        }
    }

    pub(crate) fn set_bound(&self, addrs: Vec<SocketAddr>) {
        *locked(&self.bound) = addrs;
    }

    /// Applies what was asked for before there was a record.
    pub(crate) fn apply_changes(&self, instance: &mut Instance) {
        for change in std::mem::take(&mut locked(&self.announced).changes) {
            change(instance);
        }
    }

    pub(crate) fn set_registrations(&self, registrations: Vec<Registration>) {
        let mut announced = locked(&self.announced);
        let post = |registration: Registration| Post {
            instance: registration.instance(),
            registration: Some(registration),
            withdrawn: false,
        };
        announced.posts = registrations.into_iter().map(post).collect();
        for change in std::mem::take(&mut announced.changes) {
            announced.update(change);
        }
    }

    pub(crate) fn bound(&self) -> Vec<SocketAddr> {
        locked(&self.bound).clone()
    }

    /// Who this process is, as every service it serves or served; its own first.
    pub(crate) fn everybody(&self) -> Vec<Arc<Instance>> {
        locked(&self.announced).posts.iter().map(Post::instance).collect()
    }

    /// What is still announced.
    pub(crate) fn take_registrations(&self) -> Vec<Registration> {
        locked(&self.announced).posts.drain(..).filter_map(|post| post.registration).collect()
    }

    fn take_registration(&self, service: &str) -> Option<Registration> {
        let mut announced = locked(&self.announced);
        announced.posts.iter_mut().find(|post| post.instance.service.as_str() == service).and_then(|post| {
            post.instance = post.instance();
            post.registration.take()
        })
    }

    /// What is still announced, to be announced again later.
    pub(crate) fn withdraw_registrations(&self) -> Vec<Registration> {
        let mut announced = locked(&self.announced);
        let posts = announced.posts.iter_mut();
        posts
            .filter_map(|post| {
                post.instance = post.instance();
                let registration = post.registration.take()?;
                post.withdrawn = true;
                Some(registration)
            })
            .collect()
    }

    /// Announces again what was withdrawn; an id that has left is never taken back, so it is another.
    pub(crate) fn announce_withdrawn(&self, register: impl Fn(Instance) -> Registration) {
        for post in locked(&self.announced).posts.iter_mut().filter(|post| post.withdrawn) {
            let mut instance = (*post.instance).clone();
            instance.id = Instance::new(instance.service.clone()).id;
            let registration = register(instance);
            *post = Post {
                instance: registration.instance(),
                registration: Some(registration),
                withdrawn: false,
            };
        }
    }

    /// How each registration stands, as it changes.
    pub(crate) fn registration_states(&self) -> Vec<(ServiceName, watch::Receiver<RegistrationState>)> {
        let announced = locked(&self.announced);
        let registered = announced
            .posts
            .iter()
            .filter_map(|post| Some((post.instance.service.clone(), post.registration.as_ref()?.state())));
        registered.collect()
    }

    /// Changes the records of all services.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Instance) + Send + 'static) {
        locked(&self.announced).update(change);
    }

    /// Waits until the readiness of a part was set. Cancel-safe: what was set is not lost.
    pub(crate) async fn readiness_changed(&self) {
        self.readiness.notified().await;
    }

    /// Reads the configuration again. Dropping the future does not stop it.
    pub(crate) async fn reload(&self) -> Result<Reloaded, RunError> {
        let unable = |text: &str| RunError::Setup(Error::unavailable(text));
        let Some(wiring) = self.lazy.wired().cloned() else {
            return Err(unable("reading the configuration again: it was not read yet"));
        };
        let reading = task::spawn_blocking(move || wiring.reload());
        reading
            .await
            .unwrap_or_else(|_ended| Err(unable("reading the configuration again: the runtime ends")))
    }
}

/// Steers a running app; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What the app itself holds.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A channel to a service or target, as [`App::channel`](crate::App::channel). At most 1 024 are
    /// kept, idle ones for 10 min.
    ///
    /// # Errors
    /// `Invalid` for a malformed name or target, `Unsupported` for one this build cannot reach.
    pub fn channel(&self, target: &str) -> Result<Channel, Error> {
        match self.shared.lazy.get() {
            Some(wiring) => wiring.channels.get(target),
            None => Err(Error::invalid("app could not be set up; `serve` says why")),
        }
    }

    /// Asks the app to stop, as a first SIGTERM does. Never taken back.
    pub fn stop(&self) {
        self.shared.control.stop("handle");
    }

    /// Stops the app because something failed that it cannot do without.
    pub(crate) fn fail(&self, cause: &str, code: u8) {
        self.shared.control.fail(cause, code);
    }

    /// Cancelled as soon as the app was asked to stop.
    pub fn stopping(&self) -> CancellationToken {
        self.shared.control.stopping()
    }

    /// Cancelled when the app has left the registry, has settled, and takes no new calls: for tasks that calls under way
    /// still need.
    pub fn draining(&self) -> CancellationToken {
        self.shared.control.draining()
    }

    /// How the tasks and schedules of the app stand, in the order of declaration.
    pub fn tasks(&self) -> Vec<TaskStatus> {
        self.shared.tasks.all()
    }

    /// How often the runtime stood still for more than a second while the app served: code that blocks its threads, or a
    /// process that was paused.
    pub fn stalls(&self) -> u64 {
        self.shared.stalls.total()
    }

    /// Hears every notice from now on: heartbeats that stop, checks that turn, addresses that change, and when all is
    /// well again. `[service.notices]` says how long trouble must last, and names a webhook that hears them too.
    ///
    /// ```
    /// # use meshwork::{App, NoticeState};
    /// let app = App::new().on_serving(|handle| async move {
    ///     let mut notices = handle.notices();
    ///     tokio::spawn(async move {
    ///         while let Some(notice) = notices.next().await {
    ///             if notice.state == NoticeState::Critical {
    ///                 eprintln!("{notice}");
    ///             }
    ///         }
    ///     });
    /// });
    /// ```
    pub fn notices(&self) -> Notices {
        self.shared.notices.listen()
    }

    /// What became of the notices for the webhook of `[service.notices]`.
    pub fn webhook(&self) -> WebhookStats {
        self.shared.lazy.wired().map(|wiring| wiring.webhook.stats()).unwrap_or_default()
    }

    /// Where everything says what is not well.
    pub(crate) fn board(&self) -> &Arc<Board> {
        &self.shared.notices
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.shared.control.phase()
    }

    /// Waits until the app serves; says `false` when it never will, because it is stopping or failed.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn serving(&self) -> bool {
        let mut phases = self.shared.control.phases();
        match phases.wait_for(|phase| *phase >= Phase::Serving).await {
            Ok(phase) => *phase == Phase::Serving,
            Err(_gone) => false,
        }
    }

    /// A readiness of the author's own, named in `/.meshwork/ready`. It begins as not ready and must be
    /// ready before the instance is announced. When it is lost while the app serves, `[service.readiness]` says what the
    /// registry is told and after how long.
    pub fn readiness(&self, name: impl Into<Arc<str>>) -> Readiness {
        let readiness = Readiness { name: name.into(), shared: Arc::clone(&self.shared) };
        readiness.set(false);
        readiness
    }

    /// Changes the record of this instance: weight, labels, status; those of all its services. Before it is announced the change is
    /// kept; afterwards it is written as soon as the registry can be reached.
    pub fn update(&self, change: impl FnOnce(&mut Instance) + Send + 'static) {
        self.shared.update(change);
    }

    /// Reads the configuration again, as a change of its files and SIGHUP do, and applies what is live: `read` and
    /// `write` of a dual registry, `endpoints` of an etcd, and the sections of
    /// [`App::watch_config`](crate::App::watch_config).
    /// Every other changed key is named in the answer and, once, in the log.
    ///
    /// # Errors
    /// What is wrong and where; everything stays as it was then.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the reading; only its outcome is lost.
    pub async fn reload(&self) -> Result<Reloaded, RunError> {
        self.shared.reload().await
    }

    /// Where the first listener is bound; `None` before it is.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.shared.bound().first().copied()
    }

    /// Where every listener is bound, HTTP first.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.shared.bound()
    }

    /// The record as it is announced, or will be; `None` before the listeners are bound and after it left. Of an app
    /// that [`serves`](crate::App::serves) several services that of its own name; see [`instances`](Self::instances).
    pub fn instance(&self) -> Option<Arc<Instance>> {
        let announced = locked(&self.shared.announced);
        announced.posts.first()?.registration.as_ref().map(Registration::instance)
    }

    /// The records of all services that are announced, the app's own first.
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        let announced = locked(&self.shared.announced);
        announced
            .posts
            .iter()
            .filter_map(|post| post.registration.as_ref())
            .map(Registration::instance)
            .collect()
    }

    /// Takes one service of this process out of the registry: marked as leaving, then gone. The process and its other
    /// services go on, and so do the calls that still come. Nothing happens when it is not announced.
    ///
    /// # Errors
    /// What the registry answered when it did not confirm; the record ends with its time to live then.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the leaving; only its outcome is lost.
    pub async fn leave(&self, service: &str) -> Result<(), Arc<Error>> {
        match self.shared.take_registration(service) {
            Some(registration) => registration.deregister().await,
            None => Ok(()),
        }
    }

    /// How the sides of a dual registry stand: what is announced on each, what each shows, where they disagree.
    /// `table` is its name in `[registry]`; `None` when nothing leads there. A dual made in code has its own
    /// [`stats`](crate::Dual::stats).
    pub fn dual(&self, table: &str) -> Option<Arc<DualStats>> {
        self.shared.lazy.wired()?.duals.get(table).map(Arc::clone)
    }

    /// How the registration of the app's own service stands; `None` before and after it, and where nothing is announced.
    pub fn registration(&self) -> Option<RegistrationState> {
        let announced = locked(&self.shared.announced);
        let registration = announced.posts.first()?.registration.as_ref()?;
        Some(registration.state().borrow().clone())
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("phase", &self.phase())
            .field("local_addrs", &self.local_addrs())
            .finish_non_exhaustive()
    }
}

/// One named reason for which an instance may not be ready. Dropping it leaves it as it was set.
#[derive(Clone)]
pub struct Readiness {
    name: Arc<str>,
    shared: Arc<Shared>,
}

impl Readiness {
    /// Says whether this part is ready.
    pub fn set(&self, ready: bool) {
        self.shared.health.set_ready(&self.name, ready);
        self.shared.readiness.notify_one();
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Readiness").field("name", &self.name).finish_non_exhaustive()
    }
}
