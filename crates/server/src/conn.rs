//! What is known of one connection, and of one request in flight on it.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{
            self, AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::Waker,
};

use futures_util::task::AtomicWaker;
use http::{Method, uri::PathAndQuery};
use meshwork_core::within;
use tokio::{sync::Notify, time::Instant};

use crate::{
    PeerIdentity,
    config::about,
    drain::{Cut, CutKind, CutRequest},
    shared::{Shared, Stage},
};

thread_local! {
    /// The connection whose request is being handled.
    pub(crate) static SERVED: RefCell<Option<Arc<Conn>>> = const { RefCell::new(None) };
}

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
    /// The connection's task, once it was polled.
    task: OnceLock<Waker>,
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
    /// What took it over is a WebSocket.
    pub(crate) websocket: AtomicBool,
    /// Requests cancelled within a second, and when that second began, in ms since it was opened.
    cancelled: AtomicU32,
    cancelling: AtomicU64,
    /// Too many of them: its peer wastes our time.
    pub(crate) wasted: AtomicBool,
    /// An HTTP/1 connection that has reached its age: its next answer is the last.
    pub(crate) aged: AtomicBool,
    /// Tells handlers that have not answered that the drain's deadline is near.
    pub(crate) ending: Arc<Notify>,
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
            task: OnceLock::new(),
            started: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            websocket: AtomicBool::new(false),
            cancelled: AtomicU32::new(0),
            cancelling: AtomicU64::new(0),
            wasted: AtomicBool::new(false),
            aged: AtomicBool::new(false),
            ending: Arc::default(),
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
            CutKind::Upgraded | CutKind::Detached => UPGRADED,
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
        let (peer, kind, age) = (self.peer, self.kind(), self.opened.elapsed());
        Cut { peer, kind, request: None, task: None, age }
    }

    /// The connection has reached its age: says whether it can be told so now. One of HTTP/1 is told by its
    /// next answer: a request may be on its way on an idle one. One that is silent has no age.
    pub(crate) fn grow_old(&self) -> bool {
        let kind = self.kind();
        if !matches!(kind, CutKind::Http1 | CutKind::Http2) || self.aged.swap(true, Relaxed) {
            return false;
        }
        self.shared.counters.connections_aged.fetch_add(1, Relaxed);
        kind == CutKind::Http2
    }

    /// A request was taken back before it was answered. Time-outs of callers do that too, but not so often.
    fn note_cancelled(&self) {
        let now = self.opened.elapsed().as_millis() as u64;
        if now.saturating_sub(self.cancelling.load(Relaxed)) >= 1000 {
            self.cancelling.store(now, Relaxed);
            self.cancelled.store(0, Relaxed);
        }
        let most = self.shared.config.max_cancelled_requests;
        if self.cancelled.fetch_add(1, Relaxed) >= most && !self.wasted.swap(true, Relaxed) {
            self.wake();
        }
    }

    /// Notes the connection's task, which is the same at every poll. What was changed before is seen after this; whoever
    /// changes something later wakes us.
    pub(crate) fn polled_by(&self, task: &Waker) {
        if self.task.get().is_none() {
            self.task.get_or_init(|| task.clone());
            atomic::fence(SeqCst);
        }
        debug_assert!(self.task.get().is_some_and(|own| own.will_wake(task)), "a connection has one task");
    }

    /// Makes the connection's task look at what was changed.
    pub(crate) fn wake(&self) {
        atomic::fence(SeqCst);
        self.task.get().into_iter().for_each(Waker::wake_by_ref);
    }

    /// Whether an answer in HTTP/1 is the last one.
    pub(crate) fn says_close(&self) -> bool {
        self.shared.stage() >= Stage::Leaving || self.aged.load(Relaxed)
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
    /// At the thread instead, while the handler is polled.
    conn: Option<Arc<Conn>>,
    method: Method,
    path: Option<PathAndQuery>,
    began: Instant,
    /// When it has reached the age of streams, where one is set.
    ends: Option<Instant>,
    answered: bool,
    told: bool,
}

impl InFlight {
    pub(crate) fn begin(conn: Arc<Conn>, method: Method, path: Option<PathAndQuery>, began: Instant) -> Self {
        conn.in_flight.fetch_add(1, Relaxed);
        let ends = conn.shared.config.max_stream_age.and_then(|age| began.checked_add(about(age)));
        Self { conn: Some(conn), method, path, began, ends, answered: false, told: false }
    }

    pub(crate) fn conn(&self) -> &Arc<Conn> {
        self.conn.as_ref().expect("invariant: only a handler's own code runs while it is away")
    }

    /// Runs some of the handler's own code, which may ask for its connection.
    pub(crate) fn inside<R>(&mut self, work: impl FnOnce() -> R) -> R {
        within(&SERVED, &mut self.conn, work)
    }

    /// When it has reached the age of streams, where one is set; whether it is a stream is another matter.
    pub(crate) fn ends(&self) -> Option<Instant> {
        self.ends
    }

    /// The path, for logs.
    pub(crate) fn path(&self) -> &str {
        self.path.as_ref().map_or("", PathAndQuery::path)
    }

    /// Notes that there is an answer, good or bad.
    pub(crate) fn answer(&mut self) {
        self.answered = true;
    }

    /// Notes that the caller is told by a status that the server ends the stream.
    pub(crate) fn tell(&mut self) {
        self.told = true;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let conn = self.conn();
        let shared = &conn.shared;
        let cut = shared.stage() == Stage::Cut;
        if !self.answered && !cut {
            conn.note_cancelled();
        }
        if cut || self.told {
            let path = self.path().into();
            let request = CutRequest { method: self.method.clone(), path, told: self.told };
            shared.report(Cut { request: Some(request), age: self.began.elapsed(), ..conn.as_cut() });
        }
        if self.told {
            shared.counters.told.fetch_add(1, Relaxed);
        }
        conn.in_flight.fetch_sub(1, Relaxed);
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
