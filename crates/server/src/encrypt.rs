//! What a listener needs to speak through an encryption, and what it learns of the peer by it.

use std::{fmt, io, sync::Arc};

use bytes::Bytes;
use meshwork_core::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// Encrypts the connections of a listener. With the feature `tls`, `Tls` is one.
pub trait Encrypt: fmt::Debug + Send + Sync + 'static {
    /// Shakes hands on an accepted socket. The server bounds it by `first_request_timeout`, counted from the
    /// moment at which the connection was accepted.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    fn accept(&self, stream: TcpStream) -> BoxFuture<'_, Result<Encrypted, Unencrypted>>;
}

const _: fn(Box<dyn Encrypt>) = |_| {};

/// What is read and written after the handshake. Shutting it down says goodbye in its own words first.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// A connection after its handshake.
#[non_exhaustive]
pub struct Encrypted {
    /// The connection.
    pub stream: Box<dyn Duplex>,
    /// Who the peer proved to be, if it did.
    pub peer: Option<PeerIdentity>,
}

impl Encrypted {
    /// A connection with a peer that proved nothing.
    pub fn new(stream: Box<dyn Duplex>) -> Self {
        Self { stream, peer: None }
    }
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encrypted").field("peer", &self.peer).finish_non_exhaustive()
    }
}

/// A handshake that failed.
#[derive(Debug)]
pub struct Unencrypted {
    /// Why.
    pub error: io::Error,
    /// The socket, so that it can be closed without taking from the peer what it was told.
    pub stream: Option<TcpStream>,
}

/// Who the peer of a connection proved to be by its certificate. In the extensions of each of its requests.
///
/// ```
/// use axum::Extension;
/// use meshwork_server::PeerIdentity;
/// async fn who(peer: Option<Extension<PeerIdentity>>) -> String {
///     peer.and_then(|Extension(peer)| peer.name().map(str::to_owned)).unwrap_or("a stranger".into())
/// }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct PeerIdentity(Arc<Proved>);

#[derive(PartialEq, Eq)]
struct Proved {
    spiffe: Option<Arc<str>>,
    dns: Box<[Arc<str>]>,
    chain: Box<[Bytes]>,
}

impl PeerIdentity {
    /// A peer with these names, whose certificate was checked; `chain` is in DER, the peer's own first.
    pub fn new(spiffe: Option<Arc<str>>, dns: Box<[Arc<str>]>, chain: Box<[Bytes]>) -> Self {
        Self(Arc::new(Proved { spiffe, dns, chain }))
    }

    /// Its SPIFFE id, else its first DNS name.
    pub fn name(&self) -> Option<&str> {
        self.shared_name().map(|name| &**name)
    }

    pub(crate) fn shared_name(&self) -> Option<&Arc<str>> {
        self.0.spiffe.as_ref().or_else(|| self.0.dns.first())
    }

    /// Its SPIFFE id.
    pub fn spiffe(&self) -> Option<&str> {
        self.0.spiffe.as_deref()
    }

    /// Its DNS names.
    pub fn dns_names(&self) -> impl Iterator<Item = &str> {
        self.0.dns.iter().map(|name| &**name)
    }

    /// Its certificates in DER, its own first.
    pub fn chain(&self) -> &[Bytes] {
        &self.0.chain
    }

    /// Whether one of its names is `name`.
    pub fn is(&self, name: &str) -> bool {
        self.spiffe() == Some(name) || self.dns_names().any(|own| own == name)
    }
}

impl fmt::Debug for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerIdentity")
            .field("spiffe", &self.0.spiffe)
            .field("dns", &self.0.dns)
            .finish_non_exhaustive()
    }
}
