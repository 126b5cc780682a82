//! What is known of one connection, and of one request in flight on it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use futures_util::task::AtomicWaker;
use http::{Method, uri::PathAndQuery};
use tokio::time::Instant;

use crate::{
    PeerIdentity,
    drain::{Cut, CutKind, CutRequest},
    shared::{Shared, Stage},
};

/// One connection, shared by its task, its socket and its requests.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) shared: Arc<Shared>,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// The peer's address as text.
    peer_text: Arc<str>,
    /// Who the peer proved to be.
    proved: OnceLock<PeerIdentity>,
    pub(crate) opened: Instant,
    /// Wakes the connection's task when the stage changes.
    pub(crate) waker: AtomicWaker,
    /// Requests begun.
    pub(crate) started: AtomicU64,
    /// Requests whose answer is not yet handed over whole.
    pub(crate) in_flight: AtomicUsize,
    /// Bytes read from the socket.
    pub(crate) received: AtomicU64,
    /// Bytes written to the socket.
    pub(crate) sent: AtomicU64,
    /// Whether the last write found the socket full.
    pub(crate) blocked: AtomicBool,
    kind: AtomicU8,
    streams: Mutex<Streams>,
}

#[derive(Debug, Default)]
struct Streams {
    next: u64,
    waiting: HashMap<u64, Weak<AtomicWaker>>,
}

const SILENT: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;
const UPGRADED: u8 = 3;

impl Conn {
    pub(crate) fn new(shared: Arc<Shared>, peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            shared,
            peer,
            local,
            peer_text: peer.to_string().into(),
            proved: OnceLock::new(),
            opened: Instant::now(),
            waker: AtomicWaker::new(),
            started: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            kind: AtomicU8::new(SILENT),
            streams: Mutex::default(),
        }
    }

    pub(crate) fn kind(&self) -> CutKind {
        match self.kind.load(Relaxed) {
            SILENT => CutKind::Silent,
            HTTP1 => CutKind::Http1,
            HTTP2 => CutKind::Http2,
            _ => CutKind::Upgraded,
        }
    }

    pub(crate) fn set_kind(&self, kind: CutKind) {
        let kind = match kind {
            CutKind::Silent => SILENT,
            CutKind::Http1 => HTTP1,
            CutKind::Http2 => HTTP2,
            CutKind::Upgraded => UPGRADED,
        };
        self.kind.store(kind, Relaxed);
    }

    /// Notes who the peer proved to be.
    pub(crate) fn prove(&self, peer: PeerIdentity) {
        self.proved.get_or_init(|| peer);
    }

    /// Who the peer proved to be.
    pub(crate) fn proved(&self) -> Option<&PeerIdentity> {
        self.proved.get()
    }

    /// The peer, for [`Context::peer`](meshwork_core::Context): the name it proved, else its address.
    pub(crate) fn who(&self) -> &Arc<str> {
        self.proved().and_then(PeerIdentity::shared_name).unwrap_or(&self.peer_text)
    }

    pub(crate) fn is_upgraded(&self) -> bool {
        self.kind.load(Relaxed) == UPGRADED
    }

    /// The connection as one entry of a drain report.
    pub(crate) fn as_cut(&self) -> Cut {
        Cut { peer: self.peer, kind: self.kind(), request: None, age: self.opened.elapsed() }
    }

    /// Wakes every answer that waits for its stream's next item.
    pub(crate) fn wake_streams(&self) {
        let waiting: Vec<_> = self.streams().waiting.values().filter_map(Weak::upgrade).collect();
        waiting.iter().for_each(|waker| waker.wake());
    }

    fn streams(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One request, from its head to the end of its answer. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct InFlight {
    conn: Arc<Conn>,
    method: Method,
    path: Option<PathAndQuery>,
    began: Instant,
    told: bool,
}

impl InFlight {
    pub(crate) fn begin(conn: Arc<Conn>, method: Method, path: Option<PathAndQuery>, began: Instant) -> Self {
        conn.in_flight.fetch_add(1, Relaxed);
        Self { conn, method, path, began, told: false }
    }

    pub(crate) fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    /// The path, for logs.
    pub(crate) fn path(&self) -> &str {
        self.path.as_ref().map_or("", PathAndQuery::path)
    }

    /// Notes that the caller is told by a status that the server ends the stream.
    pub(crate) fn tell(&mut self) {
        self.told = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let shared = &self.conn.shared;
        let cut = shared.stage() == Stage::Cut;
        if cut || self.told {
            let path = self.path().into();
            let request = CutRequest { method: self.method.clone(), path, told: self.told };
            shared.report(Cut { request: Some(request), age: self.began.elapsed(), ..self.conn.as_cut() });
        }
        if self.told {
            shared.counters.told.fetch_add(1, Relaxed);
        }
        self.conn.in_flight.fetch_sub(1, Relaxed);
        if cut {
            shared.dropped.notify_one();
        }
    }
}

/// The place of one waiting stream among those of its connection.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) waker: Arc<AtomicWaker>,
    conn: Arc<Conn>,
    key: u64,
}

impl Waiting {
    pub(crate) fn new(conn: &Arc<Conn>) -> Self {
        let waker = Arc::new(AtomicWaker::new());
        let mut streams = conn.streams();
        let key = streams.next;
        streams.next += 1;
        streams.waiting.insert(key, Arc::downgrade(&waker));
        drop(streams);
        Self { waker, conn: conn.clone(), key }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.conn.streams().waiting.remove(&self.key);
    }
}
