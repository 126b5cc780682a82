//! The listener of a proxy and its connections.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;

use super::{
    flow::{Flows, Passage},
    pump::{Pump, Reset},
};
use crate::{Error, ports::Port};

/// How long the server behind may take to accept.
const DIAL: Duration = Duration::from_secs(5);

/// What has passed through a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Connections that clients have made, also those that were reset at once.
    pub connections: u64,
    /// Of these, those that are open.
    pub open: u64,
    /// Of these, those for which the server behind could not be reached.
    pub unreachable: u64,
    /// Bytes delivered to the server.
    pub bytes_to_server: u64,
    /// Bytes delivered to the client.
    pub bytes_to_client: u64,
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Open,
    Resetting,
    Closed,
}

pub(super) enum Command {
    Door(Door, oneshot::Sender<Result<(), Error>>),
    Cut(oneshot::Sender<Result<(), Error>>),
}

/// What the handle and the connections of a proxy share.
pub(super) struct Link {
    pub(super) to_server: Flows,
    pub(super) to_client: Flows,
    upstream: Mutex<SocketAddr>,
    connections: AtomicU64,
    open: AtomicU64,
    unreachable: AtomicU64,
    bytes_to_server: AtomicU64,
    bytes_to_client: AtomicU64,
}

// === impl Link ===

impl Link {
    pub(super) fn new(upstream: SocketAddr) -> Self {
        Self {
            to_server: Flows::default(),
            to_client: Flows::default(),
            upstream: Mutex::new(upstream),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
            unreachable: AtomicU64::new(0),
            bytes_to_server: AtomicU64::new(0),
            bytes_to_client: AtomicU64::new(0),
        }
    }

    pub(super) fn redirect(&self, upstream: SocketAddr) {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    pub(super) fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            connections: read(&self.connections),
            open: read(&self.open),
            unreachable: read(&self.unreachable),
            bytes_to_server: read(&self.bytes_to_server),
            bytes_to_client: read(&self.bytes_to_client),
        }
    }

    fn upstream(&self) -> SocketAddr {
        *self.upstream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts an open connection as long as it lives.
struct Open<'a>(&'a AtomicU64);

impl<'a> Open<'a> {
    fn new(open: &'a AtomicU64) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The one task of a proxy: it owns the listener and, in a set, every connection.
pub(super) async fn serve(
    link: Arc<Link>,
    port: Arc<Port>,
    mut inbox: mpsc::Receiver<Command>,
    stop: CancellationToken,
) {
    let mut door = Door::Closed;
    let mut listener: Option<TcpListener> = None;
    let mut connections = JoinSet::new();
    let mut cut = CancellationToken::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            command = inbox.recv() => match command {
                None => break,
                Some(Command::Cut(done)) => {
                    cut.cancel();
                    while connections.join_next().await.is_some() {}
                    cut = CancellationToken::new();
                    // Nobody waits any more where the receiver is gone.
                    let _ = done.send(Ok(()));
                }
                Some(Command::Door(wanted, done)) => {
                    let turned = turn(&mut listener, wanted, &port).await;
                    if turned.is_ok() {
                        door = wanted;
                    }
                    let _ = done.send(turned);
                }
            },
            client = accept(listener.as_ref()) => {
                link.connections.fetch_add(1, Ordering::Relaxed);
                resets_when_closed(&client, true);
                if door != Door::Resetting {
                    connections.spawn(connection(Arc::clone(&link), client, cut.clone()));
                }
            }
            Some(_ended) = connections.join_next() => {}
        }
    }
    cut.cancel();
    while connections.join_next().await.is_some() {}
}

async fn turn(listener: &mut Option<TcpListener>, wanted: Door, port: &Port) -> Result<(), Error> {
    if wanted == Door::Closed {
        *listener = None;
    } else if listener.is_none() {
        let bound = TcpListener::bind(port.addr()).await;
        *listener = Some(bound.map_err(|e| Error::new("listening for a fault proxy").with_source(e))?);
    }
    Ok(())
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    loop {
        match listener {
            None => return std::future::pending().await,
            Some(listener) => match listener.accept().await {
                Ok((client, _)) => return client,
                // Out of descriptors, or a client that was gone at once: the next may do better.
                Err(_) => time::sleep(Duration::from_millis(5)).await,
            },
        }
    }
}

async fn connection(link: Arc<Link>, mut client: TcpStream, cut: CancellationToken) {
    let _open = Open::new(&link.open);
    let dialled = tokio::select! {
        biased; // A cut wins over everything that could still be done.
        () = cut.cancelled() => None,
        server = dial(&link) => server,
    };
    let Some(mut server) = dialled else { return };
    resets_when_closed(&server, true);
    // Delays are ours to make, not the kernel's; a socket that refuses is closed already.
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let outcome = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let there = Pump::new(from_client, to_server, link.to_server.watch(), &link.bytes_to_server);
        let back = Pump::new(from_server, to_client, link.to_client.watch(), &link.bytes_to_client);
        tokio::select! {
            biased; // As above.
            () = cut.cancelled() => Err(Reset),
            ended = async { tokio::try_join!(there.run(), back.run()) } => ended.map(drop),
        }
    };
    if outcome.is_ok() {
        resets_when_closed(&client, false);
        resets_when_closed(&server, false);
    }
}

/// Dials the server, as soon as anything can pass to it.
async fn dial(link: &Link) -> Option<TcpStream> {
    let passes = |flow: &super::flow::Flow| flow.passage == Passage::Forward;
    link.to_server.watch().wait_for(passes).await.ok()?;
    match time::timeout(DIAL, TcpStream::connect(link.upstream())).await {
        Ok(Ok(server)) => Some(server),
        _ => {
            link.unreachable.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// Until a connection has ended well, whatever closes it is a reset: also a cut, and the end of the proxy.
fn resets_when_closed(stream: &TcpStream, is_so: bool) {
    // A socket that refuses this is closed already.
    let _ = rustix::net::sockopt::set_socket_linger(stream, is_so.then_some(Duration::ZERO));
}
