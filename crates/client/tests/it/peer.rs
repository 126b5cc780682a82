//! A real HTTP/1.1 and HTTP/2 server that does what the test says.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time,
};

type Answer = Response<Full<Bytes>>;
type Script = Box<dyn Fn(&Request<Bytes>) -> Answer + Send + Sync>;

/// A server, driven by the test. Dropping it kills every connection.
pub(crate) struct Peer {
    pub(crate) addr: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    /// What the confirmation says; empty = not a Meshwork process.
    identity: Mutex<Vec<String>>,
    script: Mutex<Arc<Script>>,
    delay: Mutex<Duration>,
    hanging: AtomicBool,
    requests: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    cut: Notify,
}

impl Peer {
    /// A foreign server that answers `name`.
    pub(crate) async fn foreign(name: &'static str) -> Self {
        Self::start("127.0.0.1:0".parse().unwrap(), name, Vec::new()).await
    }

    /// A process of ours: `users/<name>`.
    pub(crate) async fn native(name: &'static str) -> Self {
        Self::native_at("127.0.0.1:0".parse().unwrap(), name).await
    }

    pub(crate) async fn native_at(addr: SocketAddr, name: &'static str) -> Self {
        Self::start(addr, name, vec![format!("users/{name}")]).await
    }

    pub(crate) async fn start(addr: SocketAddr, name: &'static str, identity: Vec<String>) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let script: Script = Box::new(move |_| Response::new(Full::from(name)));
        let state = Arc::new(State {
            identity: Mutex::new(identity),
            script: Mutex::new(Arc::new(script)),
            delay: Mutex::default(),
            hanging: AtomicBool::new(false),
            requests: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            cut: Notify::new(),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { addr, state, task }
    }

    /// Answers by `script` from now on.
    pub(crate) fn script(&self, script: impl Fn(&Request<Bytes>) -> Answer + Send + Sync + 'static) {
        *self.state.script.lock().unwrap() = Arc::new(Box::new(script));
    }

    /// Answers with this status from now on.
    pub(crate) fn say(&self, status: u16, headers: &'static [(&'static str, &'static str)]) {
        self.script(move |_| {
            let mut answer = Response::builder().status(status);
            for (name, value) in headers {
                answer = answer.header(*name, *value);
            }
            answer.body(Full::default()).unwrap()
        });
    }

    pub(crate) fn delay(&self, delay: Duration) {
        *self.state.delay.lock().unwrap() = delay;
    }

    /// Takes requests and answers none.
    pub(crate) fn hang(&self, hanging: bool) {
        self.state.hanging.store(hanging, Ordering::SeqCst);
    }

    /// Who it says it is from now on.
    pub(crate) fn become_another(&self, identity: &str) {
        *self.state.identity.lock().unwrap() = vec![identity.to_owned()];
    }

    /// Requests but for confirmations.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// Requests in a handler now.
    pub(crate) fn running(&self) -> usize {
        self.state.running.load(Ordering::SeqCst)
    }

    /// The most requests that were in a handler at a time.
    pub(crate) fn most(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }

    /// Connections accepted ever.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// Closes all connections at once; goes on listening.
    pub(crate) fn cut(&self) {
        self.state.cut.notify_waiters();
    }

    /// Dies: closes everything, and gives its address back.
    pub(crate) async fn kill(self) -> SocketAddr {
        self.task.abort();
        super::support::until("the peer is dead", || self.task.is_finished()).await;
        self.addr
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        state.connections.fetch_add(1, Ordering::SeqCst);
        let state = Arc::clone(&state);
        connections.spawn(async move {
            let _open = Counted::new(&state.open);
            let service = hyper::service::service_fn(|request| answer(Arc::clone(&state), request));
            let builder = auto::Builder::new(TokioExecutor::new());
            let serving = builder.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                _ended = serving => {}
                () = state.cut.notified() => {}
            }
        });
    }
}

async fn answer(state: Arc<State>, request: Request<Incoming>) -> Result<Answer, Infallible> {
    if request.uri().path() == "/.meshwork/is" {
        let identity = state.identity.lock().unwrap().clone();
        let mut answer = Response::builder().status(if identity.is_empty() { 404 } else { 204 });
        for value in identity {
            answer = answer.header("meshwork-is", value);
        }
        return Ok(answer.body(Full::default()).unwrap());
    }
    state.requests.fetch_add(1, Ordering::SeqCst);
    let _running = Counted::new(&state.running);
    state.most.fetch_max(state.running.load(Ordering::SeqCst), Ordering::SeqCst);
    if state.hanging.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    let delay = *state.delay.lock().unwrap();
    if !delay.is_zero() {
        time::sleep(delay).await;
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let script = Arc::clone(&state.script.lock().unwrap());
    Ok(script(&Request::from_parts(head, body)))
}

struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// An address on which nobody listens.
pub(crate) async fn refused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// An address that accepts and never says a word.
pub(crate) async fn frozen() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            kept.push(stream);
        }
    });
    (addr, task)
}

/// A wire between the client and a peer that can be stopped: bytes go in and do not come out.
pub(crate) struct Wire {
    stopped: Arc<AtomicBool>,
    refusing: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Wire {
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
    }

    /// Closes every new connection at once; those there are go on.
    pub(crate) fn refuse(&self) {
        self.refusing.store(true, Ordering::SeqCst);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn black_hole(to: SocketAddr) -> (SocketAddr, Wire) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stopped, refusing) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let task = tokio::spawn({
        let (stopped, refusing) = (Arc::clone(&stopped), Arc::clone(&refusing));
        async move {
            let mut wires = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                if refusing.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(far) = TcpStream::connect(to).await else { continue };
                let (near, far) = (near.into_split(), far.into_split());
                wires.spawn(carry(near.0, far.1, Arc::clone(&stopped)));
                wires.spawn(carry(far.0, near.1, Arc::clone(&stopped)));
            }
        }
    });
    (addr, Wire { stopped, refusing, task })
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, stopped: Arc<AtomicBool>) {
    let mut buffer = vec![0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if stopped.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
