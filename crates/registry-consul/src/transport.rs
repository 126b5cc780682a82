//! The connections to the agent: one pool of rs-consul's client type, or one over a Unix socket.
//!
//! Over HTTP/1 every open blocking query takes a connection, and Consul allows 200 per client; over TLS it is
//! HTTP/2, where hundreds of queries share a connection. So queries take turns, as many at once as the way to
//! the agent carries.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, Error as ClientError, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rs_consul::HttpsClient;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::{address::Address, unix::UnixConnector};

/// The type of bodies that rs-consul's client takes.
pub(crate) type Body = BoxBody<Bytes, Infallible>;

/// Blocking queries per HTTP/2 connection: below the 250 streams that Go's server allows.
const PER_CONNECTION: usize = 200;
/// At most so many requests beside the views' queries: the watches of our own records, and what is short.
/// Together with `max_queries` they stay below the 200 connections that Consul takes from one client.
const SEATS: usize = 40;
/// At most so many HTTP/2 connections.
const CONNECTIONS: usize = 8;
const CONNECT: Duration = Duration::from_secs(2);
const IDLE: Duration = Duration::from_secs(60);
/// Pings on HTTP/2, so that a silent connection is noticed.
const PING: Duration = Duration::from_secs(10);

#[derive(Clone)]
enum Wire {
    Tcp(HttpsClient),
    Unix(Client<UnixConnector, Body>),
}

/// The ways to one agent.
pub(crate) struct Transport {
    base: String,
    /// The first one also carries what is no blocking query.
    lines: Vec<Line>,
    /// One turn per blocking query that may be open at once.
    turns: Arc<Semaphore>,
    /// One seat per other request that may be under way at once.
    seats: Semaphore,
    capacity: usize,
}

struct Line {
    wire: Wire,
    room: Arc<Semaphore>,
}

/// A turn of one blocking query, and the line that carries it.
pub(crate) struct Turn {
    wire: Wire,
    _room: Option<OwnedSemaphorePermit>,
    _turn: OwnedSemaphorePermit,
}

impl Transport {
    /// Opens nothing yet.
    pub(crate) fn new(
        address: &Address,
        tls: &ClientConfig,
        server_name: Option<&ServerName<'static>>,
        max_queries: usize,
    ) -> Self {
        let (wires, room) = match address {
            Address::Unix(path) => {
                let client = Client::builder(TokioExecutor::new())
                    .pool_idle_timeout(IDLE)
                    .pool_max_idle_per_host(max_queries)
                    .pool_timer(TokioTimer::new())
                    .build(UnixConnector::new(path.clone()));
                (vec![Wire::Unix(client)], max_queries)
            }
            Address::Tcp { tls: true, .. } => {
                let connect = connector(tls.clone(), server_name.cloned());
                let wire = || Wire::Tcp(client(connect.clone(), max_queries));
                ((0..CONNECTIONS).map(|_| wire()).collect(), PER_CONNECTION)
            }
            Address::Tcp { tls: false, .. } => {
                let connect = connector(tls.clone(), None);
                (vec![Wire::Tcp(client(connect, max_queries))], max_queries)
            }
        };
        let capacity = wires.len() * room;
        let lines =
            wires.into_iter().map(|wire| Line { wire, room: Arc::new(Semaphore::new(room)) }).collect();
        Self {
            base: address.base(),
            lines,
            turns: Arc::new(Semaphore::new(capacity)),
            seats: Semaphore::new(SEATS),
            capacity,
        }
    }

    /// What request URIs begin with.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// How many blocking queries may be open at once.
    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// The pooled client that rs-consul takes; none over a Unix socket.
    pub(crate) fn https(&self) -> Option<HttpsClient> {
        match &self.lines[0].wire {
            Wire::Tcp(client) => Some(client.clone()),
            Wire::Unix(_) => None,
        }
    }

    /// Waits for a turn.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue.
    pub(crate) async fn turn(&self) -> Turn {
        let turn = Arc::clone(&self.turns).acquire_owned().await.expect("invariant: it is never closed");
        let free = |line: &Line| {
            Arc::clone(&line.room).try_acquire_owned().ok().map(|room| (line.wire.clone(), room))
        };
        match self.lines.iter().find_map(free) {
            Some((wire, room)) => Turn { wire, _room: Some(room), _turn: turn },
            // As many turns as room: only a turn that ends in this moment leads here.
            None => Turn { wire: self.lines[0].wire.clone(), _room: None, _turn: turn },
        }
    }

    /// Waits for a seat, which a request that is no blocking query of a view holds until its answer was read.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue.
    pub(crate) async fn seat(&self) -> SemaphorePermit<'_> {
        self.seats.acquire().await.expect("invariant: it is never closed")
    }

    /// Sends a request that is no blocking query of a view.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, ClientError> {
        self.lines[0].wire.send(request).await
    }
}

impl Turn {
    /// Sends a blocking query.
    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, ClientError> {
        self.wire.send(request).await
    }
}

impl Wire {
    async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, ClientError> {
        match self {
            Self::Tcp(client) => client.request(request).await,
            Self::Unix(client) => client.request(request).await,
        }
    }
}

fn connector(tls: ClientConfig, server_name: Option<ServerName<'static>>) -> HttpsConnector<HttpConnector> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    tcp.set_keepalive(Some(PING));
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
    let builder = match server_name {
        Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name)),
        None => builder,
    };
    builder.enable_all_versions().wrap_connector(tcp)
}

fn client(connect: HttpsConnector<HttpConnector>, max_idle: usize) -> HttpsClient {
    Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(max_idle)
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(CONNECT)
        .build(connect)
}
