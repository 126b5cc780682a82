//! One HTTP/2 connection: what calls need of it, and the future that its owner polls.
//!
//! hyper's own task moves the bytes and outlives the owner's half, so that open streams finish after a
//! GOAWAY. The owner's half is polled on every beat of the [`Pulse`](crate::pulse) too: a GOAWAY that comes
//! while streams are open is seen in no other way.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::TryFutureExt;
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use meshwork_core::InstanceId;
use tokio::{task::AbortHandle, time};

use crate::{
    CallError, CallErrorKind, Io,
    failure::Failure,
    io::{Traffic, Wire},
    upload::Outbound,
};

/// The largest header list that is accepted in an answer.
const MAX_HEADERS: u32 = 64 * 1024;
/// Streams that we reset and whose late frames are still tolerated.
const RESET_STREAMS: usize = 1024;
/// So many time-outs in a row without a byte received make a connection dead.
const SILENT_TIMEOUTS: u32 = 10;
/// So many streams at a time are a crowd: the library keeps the room that they took, some 700 bytes each.
const CROWD: usize = 1000;
/// For so many beats there are few streams until a crowd is over.
const CALM_BEATS: u32 = 10;
/// The streams that the library allows before the peer has said its limit.
const LIMIT_BEFORE_SETTINGS: usize = 100;

/// The owner's half.
pub(crate) type Driver = http2::Connection<TokioIo<Wire>, Outbound, Cuttable>;

/// One connection as calls see it.
pub(crate) struct Http2 {
    send: http2::SendRequest<Outbound>,
    traffic: Arc<Traffic>,
    cut: Cuttable,
    /// Streams open now, and how many the peer allows.
    open: AtomicUsize,
    limit: AtomicUsize,
    /// Calls begun ever; tells the pulse whether there is traffic.
    calls: AtomicU64,
    retired: AtomicBool,
    /// Whether there was a crowd, and for how many beats it is over.
    crowded: AtomicBool,
    calm: AtomicU32,
    beaten: AtomicBool,
    /// Whether the peer is asked for a sign of life when it is silent.
    pings: bool,
    /// Bytes received at the last look, and for how many looks there were no more.
    heard: AtomicU64,
    quiet: AtomicU32,
    ping_due: AtomicBool,
    /// Wakes the owner. Kept when it wakes, so that the owner need not register anew at each poll.
    owner: Mutex<Option<Waker>>,
    silent: Silence,
    /// The instance that answers here, where it was confirmed.
    identity: OnceLock<InstanceId>,
}

/// Time-outs in a row during which nothing was received.
#[derive(Default)]
struct Silence {
    timeouts: AtomicU32,
    received: AtomicU64,
}

/// Runs hyper's tasks and keeps hold of the first: the one that owns the socket.
#[derive(Clone, Default)]
pub(crate) struct Cuttable(Arc<OnceLock<AbortHandle>>);

impl<F> Executor<F> for Cuttable
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        // One type stands for the connection and for each call, and has the size of the largest: moving it
        // into a box once is cheaper than moving it about inside the runtime.
        let task = tokio::spawn(Box::pin(future));
        // Only the first of them, spawned by the handshake, is kept.
        if self.0.get().is_none() {
            let _kept = self.0.set(task.abort_handle());
        }
    }
}

impl Http2 {
    /// Speaks the preface and waits for the peer's: a listener with nobody behind it is no connection.
    /// `pings`: whether the peer is asked for a sign of life when it is silent.
    ///
    /// # Cancel safety
    /// Dropping the future closes the stream.
    pub(crate) async fn open(io: Box<dyn Io>, pings: bool) -> Result<(Arc<Self>, Driver), CallError> {
        let traffic = Arc::new(Traffic::default());
        let cut = Cuttable::default();
        let mut builder = http2::Builder::new(cut.clone());
        builder
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEADERS)
            .max_concurrent_reset_streams(RESET_STREAMS);
        // hyper's own pings are left off: they take a lock and read the clock for each frame received.
        let wire = TokioIo::new(Wire::new(io, Arc::clone(&traffic)));
        let failed = |error: hyper::Error| {
            CallError::new(CallErrorKind::Connect, "beginning an HTTP/2 connection").with_source(error)
        };
        let (send, mut driver) = builder.handshake(wire).await.map_err(failed)?;
        let connection = Self {
            send,
            traffic,
            cut,
            open: AtomicUsize::new(0),
            limit: AtomicUsize::new(LIMIT_BEFORE_SETTINGS),
            calls: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            crowded: AtomicBool::new(false),
            calm: AtomicU32::new(0),
            beaten: AtomicBool::new(false),
            pings,
            heard: AtomicU64::new(0),
            quiet: AtomicU32::new(0),
            ping_due: AtomicBool::new(false),
            owner: Mutex::default(),
            silent: Silence::default(),
            identity: OnceLock::new(),
        };
        let connection = Arc::new(connection);
        connection.while_driven(&mut driver, connection.traffic.begun()).await.map_err(|error| {
            let closed = CallError::new(CallErrorKind::Connect, "the peer closed a new HTTP/2 connection");
            match error {
                Some(error) => closed.with_source(error),
                None => closed,
            }
        })?;
        connection.learn_limit(&mut driver).await;
        Ok((connection, driver))
    }

    /// The first bytes are here; the limit in them is known a moment later.
    async fn learn_limit(&self, driver: &mut Driver) {
        for _ in 0..5 {
            self.publish_limit(driver);
            if self.limit.load(Ordering::Relaxed) != LIMIT_BEFORE_SETTINGS {
                return;
            }
            time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn publish_limit(&self, driver: &Driver) {
        self.limit.store(driver.current_max_send_streams(), Ordering::Relaxed);
    }

    /// Runs `work` while the connection lives.
    ///
    /// # Errors
    /// The connection's own end, when that came first.
    pub(crate) async fn while_driven<T>(
        &self,
        driver: &mut Driver,
        work: impl Future<Output = T>,
    ) -> Result<T, Option<hyper::Error>> {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(ended) = Pin::new(&mut *driver).poll(cx) {
                return Poll::Ready(Err(ended.err()));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// Polls the owner's half until the connection takes no more calls, or something is due. Open streams go on.
    /// `on_beat` runs at each beat.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn serve(&self, driver: &mut Driver, on_beat: impl Fn()) -> Served {
        let mut registered: Option<Waker> = None;
        poll_fn(|cx| {
            // Nearly always the same waker, and comparing it is cheaper than registering it.
            if !registered.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *lock(&self.owner) = Some(cx.waker().clone());
                registered = Some(cx.waker().clone());
            }
            self.poll_serve(driver, &on_beat, cx)
        })
        .await
    }

    fn poll_serve(&self, driver: &mut Driver, on_beat: &impl Fn(), cx: &mut Context<'_>) -> Poll<Served> {
        if self.retired.load(Ordering::Acquire) {
            return Poll::Ready(Served::Ended(None));
        }
        if self.beaten.swap(false, Ordering::Acquire) {
            self.publish_limit(driver);
            on_beat();
            if self.ping_due.swap(false, Ordering::Relaxed) {
                return Poll::Ready(Served::PingDue);
            }
            if self.is_over_its_crowd() {
                return Poll::Ready(Served::Outgrown);
            }
        }
        Pin::new(driver).poll(cx).map(|ended| Served::Ended(ended.err()))
    }

    /// Whether there was a crowd and few calls since; says so once.
    fn is_over_its_crowd(&self) -> bool {
        if !self.crowded.load(Ordering::Relaxed) {
            return false;
        }
        if self.open_streams() > CROWD / 10 {
            self.calm.store(0, Ordering::Relaxed);
            return false;
        }
        let is_over = self.calm.fetch_add(1, Ordering::Relaxed) + 1 >= CALM_BEATS;
        if is_over {
            self.calm.store(0, Ordering::Relaxed);
            self.crowded.store(false, Ordering::Relaxed);
        }
        is_over
    }

    /// Takes a stream, if the peer allows one more.
    pub(crate) fn take_stream(&self) -> Taken {
        if self.is_retired() {
            return Taken::Retired;
        }
        let others = self.open.fetch_add(1, Ordering::Relaxed);
        let limit = self.limit.load(Ordering::Relaxed);
        if others >= limit {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Taken::None;
        }
        if others >= CROWD {
            self.crowded.store(true, Ordering::Relaxed);
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        if others + 1 == limit { Taken::Last } else { Taken::One }
    }

    /// Whether the peer allows another stream, as far as is known.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_retired() && self.open_streams() < self.limit.load(Ordering::Relaxed)
    }

    /// Gives a stream back.
    pub(crate) fn give_stream(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Streams open now.
    pub(crate) fn open_streams(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Calls begun ever.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Lets the owner look at its half.
    pub(crate) fn beat(&self) {
        self.beaten.store(true, Ordering::Release);
        self.wake_owner();
    }

    /// Lets the owner's task run.
    pub(crate) fn wake_owner(&self) {
        if let Some(owner) = &*lock(&self.owner) {
            owner.wake_by_ref();
        }
    }

    /// Whether the peer is asked for a sign of life when it is silent.
    pub(crate) fn is_pinged(&self) -> bool {
        self.pings
    }

    /// Looks whether anything was received since the last look; after `patience` looks without a byte the
    /// owner is asked to ping.
    pub(crate) fn listen(&self, patience: u32) {
        let received = self.traffic.received();
        if self.heard.swap(received, Ordering::Relaxed) != received {
            self.quiet.store(0, Ordering::Relaxed);
        } else if self.pings && self.quiet.fetch_add(1, Ordering::Relaxed) + 1 >= patience {
            self.quiet.store(0, Ordering::Relaxed);
            // A ping is a stream: a full connection has no room for one, and open calls to wait for.
            if self.has_room() {
                self.ping_due.store(true, Ordering::Relaxed);
                self.beat();
            }
        }
    }

    /// Whether it gets no more calls.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Gets no more calls; open streams go on.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
        self.wake_owner();
    }

    /// Ends the connection with everything on it.
    pub(crate) fn cut(&self) {
        self.retire();
        if let Some(task) = self.cut.0.get() {
            task.abort();
        }
    }

    /// Notes an attempt that timed out; says whether the connection is to be taken for dead.
    pub(crate) fn timed_out(&self) -> bool {
        let received = self.traffic.received();
        if self.silent.received.swap(received, Ordering::Relaxed) != received {
            self.silent.timeouts.store(1, Ordering::Relaxed);
            return false;
        }
        self.silent.timeouts.fetch_add(1, Ordering::Relaxed) + 1 >= SILENT_TIMEOUTS
    }

    /// Who was confirmed to answer here.
    pub(crate) fn identity(&self) -> Option<&InstanceId> {
        self.identity.get()
    }

    /// Notes who answers here.
    pub(crate) fn confirm(&self, id: InstanceId) {
        let _first = self.identity.set(id);
    }

    /// Sends a request at once; the future waits for the head of the answer.
    ///
    /// # Cancel safety
    /// Dropping the future resets the stream.
    pub(crate) fn exchange(
        &self,
        request: Request<Outbound>,
    ) -> impl Future<Output = Result<Response<Incoming>, Failure>> + Send + use<> {
        // No `async` block: it would carry the request three times.
        self.send.clone().try_send_request(request).map_err(|mut error| {
            let handed_back = error.take_message().is_some();
            Failure::http2(error.into_error(), handed_back)
        })
    }
}

/// Why the owner's half stopped being polled.
pub(crate) enum Served {
    /// The connection takes no more calls: it ended, the peer said GOAWAY, or a call retired it.
    Ended(Option<hyper::Error>),
    /// The peer was silent for long and should be asked for a sign of life.
    PingDue,
    /// It had a crowd and has few calls now: a new one would hold less memory.
    Outgrown,
}

/// Whether a stream could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// No: it has as many as the peer allows.
    None,
    /// No: it takes no more calls.
    Retired,
    /// Yes.
    One,
    /// Yes, and the connection is full now.
    Last,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
