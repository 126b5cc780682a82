//! `Channel`: the handle that applications hold, clone and call through.

use std::{
    fmt,
    future::{self, Future},
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use meshwork_core::{BoxError, Priority, ServiceName, Task, Watch};
use tokio::{
    runtime::Handle,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use tracing::{Instrument, Level};

use crate::{
    Body, CallError, CallErrorKind, CallOptions, ClientConfig, ClusterView, NodeView, cluster,
    shared::{Kind, Shared},
    stack::{self, Inherited},
    table,
};

/// How long `close` waits for calls in flight.
const CLOSE_WITHIN: Duration = Duration::from_secs(5);
/// How long `ready` waits where no time-out is configured.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// A service to call: over HTTP/1.1, HTTP/2 or gRPC, on whichever instance is best.
///
/// Cheap to clone; clones share connections and statistics. Lazy: the first call of a kind (gRPC or plain
/// HTTP) opens connections to all instances. A tonic-generated client takes it as it is; plain HTTP calls
/// begin with [`get`](Self::get) and its siblings. Each option returns a channel:
///
/// ```
/// # use std::{sync::Arc, time::Duration};
/// # use meshwork_client::{Channel, ClientConfig};
/// # use meshwork_core::{ServiceName, Watch};
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// # let watch = Watch::fixed(Arc::from([]));
/// let users = Channel::new(ServiceName::new("users")?, watch, ClientConfig::default());
/// let answer = users.hash("7").timeout(Duration::from_millis(300)).get("/v1/users/7").send().await?;
/// let name: String = answer.json().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Channel {
    cluster: Arc<Cluster>,
    options: Arc<CallOptions>,
}

/// Ends with the last channel.
struct Cluster {
    shared: Arc<Shared>,
    started: AtomicBool,
    task: Mutex<Option<Task>>,
}

/// The future of a call.
pub type CallFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, CallError>> + Send>>;

impl Channel {
    /// A channel to the service that `watch` follows. No I/O: inside a runtime it begins to follow the watch
    /// at once, elsewhere with the first call.
    pub fn new(service: ServiceName, watch: Watch, config: ClientConfig) -> Self {
        let cluster = Cluster {
            shared: Shared::new(service, watch, config),
            started: AtomicBool::new(false),
            task: Mutex::default(),
        };
        if Handle::try_current().is_ok() {
            cluster.start();
        }
        Self { cluster: Arc::new(cluster), options: Arc::default() }
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.cluster.shared.service
    }

    /// How the service was said to be called when the channel was made.
    pub fn config(&self) -> &ClientConfig {
        &self.cluster.shared.config
    }

    /// Calls as `config` says from now on, for all clones; calls under way go on as they began.
    ///
    /// Live are `timeout`, `attempt_timeout`, `retry.attempts`, `hedge`, `policy`, `hash_header`, `subsets`, `zones`,
    /// `limit` and `methods`. All else stays as it was when the channel was made. Nodes keep their connections and
    /// what is known of them; a limit that did not change goes on counting, a changed one begins anew.
    pub fn reconfigure(&self, config: &ClientConfig) {
        self.cluster.shared.change(config);
    }

    /// The options that its calls begin with.
    pub fn options(&self) -> &CallOptions {
        &self.options
    }

    /// A channel with changed options.
    #[must_use]
    pub fn with_options(&self, set: impl FnOnce(CallOptions) -> CallOptions) -> Self {
        let options = set(CallOptions::clone(&self.options));
        Self { cluster: Arc::clone(&self.cluster), options: Arc::new(options) }
    }

    /// Bounds each call, its body included.
    #[must_use]
    pub fn timeout(&self, timeout: Duration) -> Self {
        self.with_options(|options| options.timeout(timeout))
    }

    /// Bounds each attempt until the head of its answer.
    #[must_use]
    pub fn attempt_timeout(&self, timeout: Duration) -> Self {
        self.with_options(|options| options.attempt_timeout(timeout))
    }

    /// Prefers one instance for all calls of this key, where the policy knows how.
    #[must_use]
    pub fn hash(&self, key: impl AsRef<[u8]>) -> Self {
        self.with_options(|options| options.hash(key))
    }

    /// Pins calls to one instance. Text that is no instance id makes the calls fail as
    /// [`Invalid`](CallErrorKind::Invalid).
    #[must_use]
    pub fn to_instance(&self, id: impl AsRef<str>) -> Self {
        self.with_options(|options| options.to_instance(id))
    }

    /// Pins calls to one address of the service.
    #[must_use]
    pub fn to_addr(&self, addr: SocketAddr) -> Self {
        self.with_options(|options| options.to_addr(addr))
    }

    /// Says that calls may run twice, so that they may be tried again.
    #[must_use]
    pub fn idempotent(&self) -> Self {
        self.with_options(CallOptions::idempotent)
    }

    /// Says how much calls matter.
    #[must_use]
    pub fn priority(&self, priority: Priority) -> Self {
        self.with_options(|options| options.priority(priority))
    }

    /// Puts calls into a traffic lane.
    #[must_use]
    pub fn lane(&self, lane: impl Into<Arc<str>>) -> Self {
        self.with_options(|options| options.lane(lane))
    }

    /// Lets calls wait, up to their deadline, for an instance when there is none.
    #[must_use]
    pub fn wait_for_ready(&self, wait: bool) -> Self {
        self.with_options(|options| options.wait_for_ready(wait))
    }

    /// Leaves the context of the running handler aside: its deadline, lane, priority and trace.
    #[must_use]
    pub fn detached(&self) -> Self {
        self.with_options(CallOptions::detached)
    }

    /// The nodes with their state and figures, as the channel sees them now.
    pub fn cluster_view(&self) -> ClusterView {
        table::view(&self.cluster.shared)
    }

    /// The nodes of [`cluster_view`](Self::cluster_view).
    pub fn nodes(&self) -> Vec<NodeView> {
        self.cluster_view().nodes
    }

    /// Opens connections now and waits for the first one, at most for the configured time-out.
    ///
    /// # Errors
    /// [`NoInstance`](CallErrorKind::NoInstance) when the registry knows none,
    /// [`RegistryUnavailable`](CallErrorKind::RegistryUnavailable) when it did not answer in time,
    /// [`Connect`](CallErrorKind::Connect) when no instance could be connected to in time.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing; the connections stay.
    pub async fn ready(&self) -> Result<(), CallError> {
        self.cluster.ensure_started();
        let shared = &self.cluster.shared;
        let within = shared.config.timeout.as_ref().map_or(READY_WITHIN, crate::Limit::duration);
        ready(shared, Instant::now() + within).await.map_err(|error| error.with_service(&shared.service))
    }

    /// Refuses new calls, waits at most 5 s for those in flight, and closes every connection. Holds for all
    /// clones. Says whether every call ended in time.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the channel closed for new calls.
    pub async fn close(&self) -> bool {
        let shared = &self.cluster.shared;
        shared.closed.store(true, Ordering::Relaxed);
        shared.wake_all();
        let task = self.cluster.task().take();
        let ended = time::timeout(CLOSE_WITHIN, async {
            while shared.calls_in_flight() > 0 {
                time::sleep(Duration::from_millis(10)).await;
            }
        });
        let in_time = ended.await.is_ok();
        if let Some(task) = task {
            task.end(Duration::from_secs(1)).await;
        }
        shared.pulse.cut_all();
        in_time
    }
}

async fn ready(shared: &Arc<Shared>, until: Instant) -> Result<(), CallError> {
    let Ok(view) = time::timeout_at(until, shared.watch.ready()).await else {
        let error = CallError::new(CallErrorKind::RegistryUnavailable, "the registry has not answered");
        return Err(match shared.watch.latest().staleness().cause() {
            Some(cause) => error.with_source(Arc::clone(cause)),
            None => error,
        });
    };
    if view.value().is_empty() {
        return Err(CallError::new(CallErrorKind::NoInstance, "the registry knows no instance"));
    }
    let is_grpc = |kind: Kind| kind == Kind::Grpc;
    let offered = |kind: Kind| {
        let mut endpoints = view.value().iter().flat_map(|instance| &instance.endpoints);
        endpoints.any(|endpoint| endpoint.scheme().is_grpc() == is_grpc(kind))
    };
    Kind::ALL.into_iter().filter(|kind| offered(*kind)).for_each(|kind| shared.want(kind));
    loop {
        let groups = Kind::ALL.map(|kind| shared.group(kind));
        let (mut grpc, mut http) = (pin!(groups[0].changed.notified()), pin!(groups[1].changed.notified()));
        grpc.as_mut().enable();
        http.as_mut().enable();
        if shared.is_connected() {
            return Ok(());
        }
        tokio::select! {
            () = grpc => {}
            () = http => {}
            () = time::sleep_until(until) => {
                return Err(CallError::new(CallErrorKind::Connect, "no instance could be connected to"));
            }
        }
    }
}

impl Cluster {
    fn task(&self) -> std::sync::MutexGuard<'_, Option<Task>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ensure_started(&self) {
        if !self.started.load(Ordering::Relaxed) {
            self.start();
        }
    }

    /// Spawns the cluster task, once.
    fn start(&self) {
        let mut task = self.task();
        if self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        let stop = CancellationToken::new();
        let handle = tokio::spawn(cluster::run(Arc::clone(&self.shared), stop.clone()));
        *task = Some(Task::new(format!("client {}", self.shared.service), stop, handle));
    }
}

impl<B> Service<Request<B>> for Channel
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = CallError;
    type Future = CallFuture;

    /// Always ready: a call waits for its connection inside, up to its deadline.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    /// # Panics
    /// Outside a tokio runtime.
    fn call(&mut self, mut request: Request<B>) -> CallFuture {
        self.cluster.ensure_started();
        if self.cluster.shared.is_closed() {
            let closed = CallError::new(CallErrorKind::Transport, "the channel is closed");
            let closed = closed.with_service(self.service());
            return Box::pin(future::ready(Err(closed)));
        }
        let options = match request.extensions_mut().remove::<CallOptions>() {
            Some(asked) => Arc::new(asked.over(&self.options)),
            None => Arc::clone(&self.options),
        };
        let detached = options.detached == Some(true);
        let inherited = if detached { Inherited::default() } else { Inherited::current() };
        let span = tracing::span_enabled!(Level::DEBUG)
            .then(|| tracing::debug_span!("call", service = %self.service(), path = request.uri().path()));
        let call = match stack::begin(Arc::clone(&self.cluster.shared), options, &inherited, request) {
            Ok(call) => call.run(Arc::clone(&self.cluster)),
            Err(error) => return Box::pin(future::ready(Err(error))),
        };
        match span {
            None => Box::pin(call),
            Some(span) => Box::pin(call.instrument(span)),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("service", &self.cluster.shared.service)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
