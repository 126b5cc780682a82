//! HTTP/1.1 connections to one foreign node: a bounded pool, last used first.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{self, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::Notify,
    task::AbortHandle,
    time::{self, Instant},
};

use crate::{
    CallError, CallErrorKind, Io,
    clock::{self, CENTURY},
    failure::Failure,
    io::{Traffic, Wire},
    upload::Outbound,
};

/// A connection that just answered gets so long to be ready for the next call.
const READY_WITHIN: Duration = Duration::from_millis(20);

/// The pool of one node.
pub(crate) struct Http1 {
    shelf: Mutex<Shelf>,
    busy: AtomicUsize,
    most: usize,
    keep: Duration,
    max_age: Option<Duration>,
    /// Told when a connection becomes idle that has to be dropped sooner than the reaper will look.
    sooner: Notify,
}

/// The idle connections.
#[derive(Default)]
struct Shelf {
    idle: Vec<Idle>,
    /// When the reaper looks again; `None` while it waits for a first connection.
    looks: Option<Instant>,
}

struct Idle {
    connection: Connection,
    until: Instant,
}

struct Connection {
    send: http1::SendRequest<Outbound>,
    _task: AbortOnDrop,
    /// When it is too old to be used again.
    old: Option<Instant>,
}

/// The task that moves a connection's bytes ends with the connection's last holder.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The right to one connection of the pool, and the connection once there is one.
pub(crate) struct Place {
    pool: Arc<Http1>,
    connection: Option<Connection>,
    reused: bool,
    /// How long the connection may be kept after this answer; `None` = not at all.
    keep: Option<Duration>,
    /// Whether the place counts no more.
    left: bool,
}

impl Http1 {
    /// A pool of at most `most` connections, each kept for at most `keep` without a call and used for
    /// `max_age` ± 10 %.
    pub(crate) fn new(most: usize, keep: Duration, max_age: Option<Duration>) -> Self {
        let (shelf, busy) = (Mutex::default(), AtomicUsize::new(0));
        Self { shelf, busy, most: most.max(1), keep: keep.min(CENTURY), max_age, sooner: Notify::new() }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place, if there is one.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        if self.busy.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.busy.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Place { pool: Arc::clone(self), connection: None, reused: false, keep: None, left: false })
    }

    /// Whether all places are taken.
    pub(crate) fn is_full(&self) -> bool {
        atomic::fence(Ordering::SeqCst);
        self.busy.load(Ordering::Relaxed) >= self.most
    }

    /// Adds a new connection without a call, as the owner does to learn that the node is there.
    pub(crate) async fn add(&self, io: Box<dyn Io>) -> Result<(), CallError> {
        let connection = Connection::open(io, self.max_age).await?;
        self.put(connection, self.keep);
        Ok(())
    }

    fn put(&self, connection: Connection, keep: Duration) {
        let until = Instant::now() + keep;
        let mut shelf = self.shelf();
        shelf.idle.push(Idle { connection, until });
        if shelf.looks.is_none_or(|looks| until < looks) {
            shelf.looks = Some(until);
            self.sooner.notify_one();
        }
    }

    /// The idle connection used last, if one is still good.
    fn pop(&self, now: Instant) -> Option<Connection> {
        let mut shelf = self.shelf();
        while let Some(last) = shelf.idle.pop() {
            if last.until > now && !last.connection.send.is_closed() {
                return Some(last.connection);
            }
        }
        None
    }

    /// Drops idle connections whose time is over, for ever.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    pub(crate) async fn reap(&self) {
        loop {
            let next = {
                let (mut shelf, now) = (self.shelf(), Instant::now());
                shelf.idle.retain(|idle| idle.until > now && !idle.connection.send.is_closed());
                shelf.looks = shelf.idle.iter().map(|idle| idle.until).min();
                shelf.looks
            };
            match next {
                Some(until) => {
                    let _sooner = time::timeout_at(until, self.sooner.notified()).await;
                }
                None => self.sooner.notified().await,
            }
        }
    }
}

impl Connection {
    async fn open(io: Box<dyn Io>, max_age: Option<Duration>) -> Result<Self, CallError> {
        let wire = TokioIo::new(Wire::new(io, Arc::new(Traffic::default())));
        let (send, connection) = http1::handshake(wire).await.map_err(|error| {
            CallError::new(CallErrorKind::Connect, "beginning an HTTP/1.1 connection").with_source(error)
        })?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "http/1.1 connection ended");
            }
        });
        let old = max_age.and_then(|age| Instant::now().checked_add(clock::aged(age)));
        Ok(Self { send, _task: AbortOnDrop(task.abort_handle()), old })
    }
}

impl Place {
    /// Takes an idle connection of the pool; says whether there was one.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection that was being looked at.
    pub(crate) async fn reuse(&mut self) -> bool {
        while let Some(mut connection) = self.pool.pop(Instant::now()) {
            let ready = connection.send.is_ready()
                || time::timeout(READY_WITHIN, connection.send.ready()).await.is_ok();
            if ready && connection.send.is_ready() {
                self.connection = Some(connection);
                self.reused = true;
                return true;
            }
        }
        false
    }

    /// Uses a new connection.
    pub(crate) async fn open(&mut self, io: Box<dyn Io>) -> Result<(), CallError> {
        self.connection = Some(Connection::open(io, self.pool.max_age).await?);
        Ok(())
    }

    /// Sends a request and waits for the head of the answer.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection when the place is dropped.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Outbound>,
    ) -> Result<Response<Incoming>, Failure> {
        let Some(connection) = &mut self.connection else {
            let lost = CallError::new(CallErrorKind::Connect, "no connection in this place")
                .with_source(io::Error::from(io::ErrorKind::NotConnected));
            return Err(Failure::connect(lost));
        };
        match connection.send.try_send_request(request).await {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => Err(Failure::switched()),
            Ok(response) => {
                self.keep = kept_for(response.headers(), self.pool.keep);
                Ok(response)
            }
            Err(mut error) => {
                let handed_back = error.take_message().is_some();
                Err(Failure::http1(error.into_error(), handed_back, self.reused))
            }
        }
    }

    /// Lets another have the place. In one order with the looks of those who find the pool full.
    pub(crate) fn leave(&mut self) {
        if !std::mem::replace(&mut self.left, true) {
            self.pool.busy.fetch_sub(1, Ordering::SeqCst);
            atomic::fence(Ordering::SeqCst);
        }
    }

    /// Gives the connection back after its answer was read to the end.
    pub(crate) fn answer_ended(&mut self) {
        if let (Some(connection), Some(keep)) = (self.connection.take(), self.keep)
            && !connection.send.is_closed()
            && connection.old.is_none_or(|old| old > Instant::now())
        {
            self.pool.put(connection, keep);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// How long the connection may be kept: our limit, or the peer's less one second.
pub(crate) fn kept_for(answer: &HeaderMap, ours: Duration) -> Option<Duration> {
    let closes = answer
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|word| word.trim().eq_ignore_ascii_case("close"));
    if closes {
        return None;
    }
    let theirs = answer.get("keep-alive").and_then(|value| value.to_str().ok()).and_then(|value| {
        let timeout = value.split(',').find_map(|part| part.trim().strip_prefix("timeout="))?;
        timeout.trim().parse::<u64>().ok()
    });
    match theirs {
        None => Some(ours),
        Some(seconds) if seconds <= 1 => None,
        Some(seconds) => Some(ours.min(Duration::from_secs(seconds - 1))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_kept_shorter_than_the_peer_keeps_it() {
        let ours = Duration::from_secs(20);
        let kept = |name: &'static str, value: &'static str| {
            let mut answer = HeaderMap::new();
            answer.insert(name, value.parse().unwrap());
            kept_for(&answer, ours)
        };
        assert_eq!(kept("server", "x"), Some(ours));
        assert_eq!(kept("connection", "Keep-Alive, Close"), None);
        assert_eq!(kept("keep-alive", "timeout=5, max=100"), Some(Duration::from_secs(4)));
        assert_eq!(kept("keep-alive", "timeout=1"), None);
        assert_eq!(kept("keep-alive", "timeout=60"), Some(ours));
    }
}
