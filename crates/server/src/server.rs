//! The server and its two lives: set up, and serving.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use meshwork_core::Task;
use tokio::time::{self, Instant};

use crate::{
    DrainReport, Health, Identity, Listener, ServerConfig, Services, Stats,
    accept::{self, Site},
    conn::Conn,
    open::Open,
    shared::{Shared, Stage},
};

/// How long before its deadline a drain tells streams and handlers that they end; a quarter of a shorter drain.
const TELL_BEFORE: Duration = Duration::from_millis(250);
/// How long dropped handlers may take to be gone after the cut.
const DROPPING: Duration = Duration::from_millis(250);

/// A server that is set up and listens nowhere yet.
///
/// ```
/// # use std::time::Duration;
/// # use axum::{Router, routing::get};
/// # use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = Listener::bind("127.0.0.1:0".parse()?).await?;
/// let services = Services::new().http(Router::new().route("/", get(|| async { "hello" })));
/// let server = Server::new(ServerConfig::default(), Identity::new(), Health::new());
/// let serving = server.serve(listener, services);
/// // … until it is time to go:
/// serving.leave();
/// let report = serving.drain(tokio::time::Instant::now() + Duration::from_secs(5)).await;
/// assert!(report.cut.is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    open: Arc<Open>,
}

impl Server {
    /// A server with these limits, that answers `meshwork-is` from `identity` and tells `health`.
    pub fn new(config: ServerConfig, identity: Identity, health: Health) -> Self {
        Self { shared: Arc::new(Shared::new(config, identity, health)), open: Arc::default() }
    }

    /// Its counters.
    pub fn stats(&self) -> Stats {
        Stats::new(self.shared.clone(), self.open.clone())
    }

    /// Accepts connections from now on.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn serve(self, listener: Listener, services: Services) -> Serving {
        self.begin().also(listener, services)
    }

    /// Begins without a listener; [`Serving::also`] adds them.
    pub fn begin(self) -> Serving {
        Serving { shared: self.shared, open: self.open, tasks: Vec::new(), addrs: Vec::new() }
    }
}

/// The listeners of a server, to be closed before its drain. Clones are of the same.
#[derive(Clone, Debug)]
pub struct Listeners(Arc<Shared>);

impl Listeners {
    /// Accepts nobody any more; connections are served as before. For sockets that another process listens at too:
    /// whoever connects is accepted there.
    pub fn close(&self) {
        self.0.closed.cancel();
    }
}

/// A server that accepts connections. Dropping it cuts everything at once.
#[derive(Debug)]
pub struct Serving {
    shared: Arc<Shared>,
    open: Arc<Open>,
    tasks: Vec<Task>,
    addrs: Vec<SocketAddr>,
}

impl Serving {
    /// Serves one more listener, with the same limits, health and drain: gRPC on a port of its own.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn also(mut self, listener: Listener, services: Services) -> Self {
        let addr = listener.local_addr();
        services.grpc_names().iter().for_each(|name| self.shared.health.know_service(name));
        let (listener, encryption) = listener.into_parts();
        let site = Site::new(self.shared.clone(), self.open.clone(), services, encryption);
        let stop = self.shared.draining.clone();
        let task = tokio::spawn(accept::run(listener, site));
        self.tasks.push(Task::new(format!("accept {addr}"), stop, task));
        self.addrs.push(addr);
        self
    }

    /// The addresses it listens on, in the order they were added.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// Its counters.
    pub fn stats(&self) -> Stats {
        Stats::new(self.shared.clone(), self.open.clone())
    }

    /// Its listeners.
    pub fn listeners(&self) -> Listeners {
        Listeners(self.shared.clone())
    }

    /// From now on HTTP/1 answers say `connection: close`; everything is still served, HTTP/2 untouched.
    pub fn leave(&self) {
        self.shared.enter(Stage::Leaving);
    }

    /// Closes the listeners, says goodbye on all connections, and waits for what is in flight.
    ///
    /// Half prefaces and idle connections close at once, silent sockets too, except that who connected just before
    /// has 500 ms for a first request; server-sent events end; a WebSocket is told 1001. Shortly before `deadline`
    /// gRPC streams that are still open end with UNAVAILABLE, and so do handlers that have not answered (503 in
    /// HTTP), both with `meshwork-ended: draining`; at `deadline` whatever is left is cut and reported.
    /// New requests on old connections are refused as `meshwork-refused: draining`, except that those of
    /// foreign callers are still served in the first second, while they cannot know better.
    ///
    /// # Cancel safety
    /// Dropping the future cuts everything at once.
    pub async fn drain(mut self, deadline: Instant) -> DrainReport {
        let began = Instant::now();
        let before = self.ended();
        self.shared.enter(Stage::Draining);
        for conn in self.open.all() {
            conn.wake();
            // Those without an end of their own end now.
            conn.wake_streams();
        }
        self.shared.sockets.close();

        let tell = deadline - TELL_BEFORE.min(deadline.saturating_duration_since(began) / 4);
        let mut done = time::timeout_at(tell, self.shared.sockets.wait()).await.is_ok();
        if !done {
            self.shared.enter(Stage::Ending);
            for conn in self.open.all() {
                conn.wake_streams();
                conn.ending.notify_waiters();
            }
            done = time::timeout_at(deadline, self.shared.sockets.wait()).await.is_ok();
        }
        let told = self.shared.counters.told.load(Relaxed);
        let finished = self.ended().saturating_sub(before).saturating_sub(told as u64);
        let stuck = if done { 0 } else { self.cut().await };
        let (cut, cut_total) = self.shared.take_cuts();
        let took = began.elapsed();
        for cut in &cut {
            tracing::warn!(%cut, "cut at the drain's deadline");
        }
        DrainReport { finished: finished as usize, cut, cut_total, stuck, took }
    }

    /// Cuts everything at once, without a word.
    pub fn abort(self) {
        drop(self);
    }

    /// Requests that have ended so far.
    fn ended(&self) -> u64 {
        let stats = self.stats();
        stats.requests_total().saturating_sub(stats.requests_in_flight() as u64)
    }

    /// Drops every connection, and waits a moment for the handlers to be gone; how many connections still have one.
    async fn cut(&mut self) -> usize {
        self.shared.enter(Stage::Cut);
        let left = self.open.all();
        let idle = |conn: &Conn| conn.in_flight.load(Relaxed) == 0;
        left.iter().filter(|conn| idle(conn)).for_each(|conn| self.shared.report(conn.as_cut()));
        self.tasks.clear();
        let dropped = async {
            while !left.iter().all(|conn| idle(conn)) || self.shared.counters.detached.load(Relaxed) > 0 {
                self.shared.dropped.notified().await;
            }
        };
        if time::timeout(DROPPING, dropped).await.is_ok() {
            return 0;
        }
        // A handler that never yields cannot be dropped; its connection speaks for it.
        let stuck: Vec<_> = left.iter().filter(|conn| !idle(conn)).collect();
        stuck.iter().for_each(|conn| self.shared.report(conn.as_cut()));
        stuck.len() + self.shared.counters.detached.load(Relaxed)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shared.enter(Stage::Cut);
    }
}
