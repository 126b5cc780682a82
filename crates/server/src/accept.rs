//! The accept loop of one listener, and the task of each connection.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Poll, ready},
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::{
    Encrypt, ServerConfig, Services,
    config::about,
    conn::Conn,
    dispatch::{Dispatch, Doors},
    drain::CutKind,
    handshake::Handshakes,
    io::Io,
    open::{Listed, Open},
    patience::{FIRST_WORDS, Patience, Verdict},
    shared::{Shared, Stage},
    wire::Wire,
};

/// The first pause after a failed accept; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// At most one line about failed accepts in this time.
const LOG_EVERY: Duration = Duration::from_secs(30);
/// The most that are accepted when the listener closes, whatever comes meanwhile.
const MAX_WAITING: usize = 4096;
/// When a connection that has reached its age in silence is looked at again.
const SILENT_AGAIN: Duration = Duration::from_secs(1);
/// Streams that a peer may reset before we accept them: a peer's attempt time-outs against a paused
/// process must not cost the connection.
const PENDING_RESETS: usize = 1024;

/// What one listener serves.
#[derive(Debug)]
pub(crate) struct Site {
    shared: Arc<Shared>,
    open: Arc<Open>,
    http: auto::Builder<TokioExecutor>,
    doors: Arc<Doors>,
    handshakes: Option<Handshakes>,
}

impl Site {
    pub(crate) fn new(
        shared: Arc<Shared>,
        open: Arc<Open>,
        services: Services,
        encryption: Option<Arc<dyn Encrypt>>,
    ) -> Arc<Self> {
        let http = builder(&shared.config);
        let doors = Arc::new(Doors::new(&shared, services));
        Arc::new(Self { shared, open, http, doors, handshakes: encryption.map(Handshakes::new) })
    }
}

fn builder(config: &ServerConfig) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Time-outs of HTTP/1 are ours (`patience`): hyper's would need a timer per request.
    builder.http1().header_read_timeout(None).max_buf_size((config.max_header_bytes as usize).max(8 * 1024));
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(config.keep_alive_interval)
        .keep_alive_timeout(config.keep_alive_timeout)
        .max_concurrent_streams(config.max_concurrent_streams)
        .max_header_list_size(config.max_header_bytes)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .enable_connect_protocol();
    builder
}

/// Accepts until the listeners close, then waits for the connections. Dropping it cuts them.
pub(crate) async fn run(listener: TcpListener, site: Arc<Site>) {
    let _counted = site.shared.sockets.token();
    let mut conns = JoinSet::new();
    let mut trouble = Trouble::default();
    loop {
        tokio::select! {
            // Leaving comes first: nobody is accepted after it.
            biased;
            () = site.shared.closed.cancelled() => break,
            Some(_ended) = conns.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    trouble.pause = MIN_PAUSE;
                    if let Some(accepted) = admit(&site, stream, peer) {
                        conns.spawn(open(accepted, site.clone()));
                    }
                }
                // The connection failed, not the listener.
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    site.shared.counters.accept_errors.fetch_add(1, Relaxed);
                    let pause = trouble.note(&error);
                    tokio::select! {
                        () = time::sleep(pause) => {}
                        () = site.shared.closed.cancelled() => {}
                    }
                }
            }
        }
    }
    if site.shared.stage() >= Stage::Draining {
        // To close a socket resets who waits in it. Where it is closed sooner, others serve it.
        waiting(listener).filter_map(|(stream, peer)| admit(&site, stream, peer)).for_each(|accepted| {
            conns.spawn(open(accepted, site.clone()));
        });
    } else {
        drop(listener);
    }
    while conns.join_next().await.is_some() {}
}

/// Who has connected and was not accepted yet. The listener closes when nobody is left.
fn waiting(listener: TcpListener) -> impl Iterator<Item = (TcpStream, SocketAddr)> {
    // Not by the runtime, which may not have heard of the last ones.
    let listener = listener.into_std().ok();
    let accepted = std::iter::from_fn(move || listener.as_ref()?.accept().ok());
    accepted.take(MAX_WAITING).filter_map(|(stream, peer)| {
        stream.set_nonblocking(true).ok()?;
        Some((TcpStream::from_std(stream).ok()?, peer))
    })
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Failures to accept, in a row.
struct Trouble {
    pause: Duration,
    logged: Option<Instant>,
}

impl Default for Trouble {
    fn default() -> Self {
        Self { pause: MIN_PAUSE, logged: None }
    }
}

impl Trouble {
    fn note(&mut self, error: &io::Error) -> Duration {
        if self.logged.is_none_or(|logged| logged.elapsed() > LOG_EVERY) {
            self.logged = Some(Instant::now());
            tracing::error!(%error, "accepting a connection failed; pausing");
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(MAX_PAUSE);
        pause
    }
}

/// A connection that was taken in.
struct Accepted {
    stream: TcpStream,
    conn: Arc<Conn>,
    listed: Listed,
    counted: TaskTrackerToken,
}

/// Takes a connection in, unless there are too many.
fn admit(site: &Arc<Site>, stream: TcpStream, peer: SocketAddr) -> Option<Accepted> {
    let (shared, counters) = (&site.shared, &site.shared.counters);
    counters.accepted.fetch_add(1, Relaxed);
    if counters.open.load(Relaxed) >= shared.config.max_connections {
        counters.over_limit.fetch_add(1, Relaxed);
        tracing::debug!(%peer, "closed: too many connections");
        return None;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "TCP_NODELAY could not be set");
    }
    // An address that cannot be read belongs to a connection that is already over.
    let local = stream.local_addr().ok()?;
    let conn = Arc::new(Conn::new(shared.clone(), peer, local));
    let listed = site.open.list(conn.clone());
    Some(Accepted { stream, conn, listed, counted: shared.sockets.token() })
}

/// One connection, from its handshake, if there is one, to its end.
async fn open(accepted: Accepted, site: Arc<Site>) {
    let Accepted { stream, conn, listed, counted } = accepted;
    let (wire, listed) = match &site.handshakes {
        None => (Wire::Bare(stream), listed),
        Some(handshakes) => match handshakes.shake(stream, &conn, listed).await {
            Some(shaken) => shaken,
            None => return,
        },
    };
    serve(Io::new(wire, conn.clone(), listed, counted), conn, site).await;
}

/// Serves one connection to its end.
async fn serve(io: Io, conn: Arc<Conn>, site: Arc<Site>) {
    let dispatch = Dispatch::new(conn.clone(), site.doors.clone());
    let mut connection = pin!(site.http.serve_connection_with_upgrades(TokioIo::new(io), dispatch));
    let mut patience = Patience::new(&site.shared.config);
    let age = site.shared.config.max_connection_age.map(about);
    let mut ends = age.and_then(|age| conn.opened.checked_add(age));
    // Not later than the end of its age.
    let by = |at: Instant, ends: Option<Instant>| ends.map_or(at, |ends| at.min(ends));
    let mut timer = pin!(time::sleep_until(by(patience.first_look(&conn), ends)));
    // The timer keeps the waker of the task, which does not change: to be polled once is enough.
    let mut armed = false;
    let mut said_goodbye = false;
    poll_fn(|cx| {
        // Before the stage is read: whoever changes it wakes us afterwards.
        conn.polled_by(cx.waker());
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(peer = %conn.peer, error = &*error, "connection failed");
                }
                return Poll::Ready(());
            }
            if conn.wasted.load(Relaxed) {
                conn.shared.counters.wasted.fetch_add(1, Relaxed);
                tracing::warn!(peer = %conn.peer, "connection closed: it cancels thousands of requests a second");
                return Poll::Ready(());
            }
            let is_old = ends.is_some_and(|ends| Instant::now() >= ends) && conn.grow_old();
            let drains = conn.shared.stage() >= Stage::Draining;
            if !said_goodbye && drains && conn.kind() == CutKind::Silent {
                timer.as_mut().reset(conn.opened + FIRST_WORDS);
                ready!(timer.as_mut().poll(cx));
            }
            if !said_goodbye && (is_old || drains) {
                (said_goodbye, ends) = (true, None);
                connection.as_mut().graceful_shutdown();
                timer.as_mut().reset(patience.goodbye(&conn, Instant::now()));
                armed = false;
                continue;
            }
            if armed && !timer.is_elapsed() {
                return Poll::Pending;
            }
            armed = timer.as_mut().poll(cx).is_pending();
            if armed {
                return Poll::Pending;
            }
            let now = Instant::now();
            // A silent connection has no age; it may speak later.
            ends = ends.map(|ends| if now < ends { ends } else { now + SILENT_AGAIN });
            match patience.look(&conn, now) {
                Verdict::Wait(until) => timer.as_mut().reset(by(until, ends)),
                Verdict::Close(why) => {
                    conn.shared.counters.timed_out.fetch_add(1, Relaxed);
                    tracing::debug!(peer = %conn.peer, why, "connection closed");
                    return Poll::Ready(());
                }
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_pause_longer_up_to_a_second() {
        let mut trouble = Trouble::default();
        let too_many_files = io::Error::from_raw_os_error(24);
        assert!(!is_of_one_connection(&too_many_files));
        let pauses: Vec<_> = (0..10).map(|_| trouble.note(&too_many_files)).collect();
        assert_eq!((pauses[0], pauses[1], pauses[9]), (MIN_PAUSE, MIN_PAUSE * 2, MAX_PAUSE));
    }
}
