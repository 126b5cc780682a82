//! TLS towards instances, by rustls with ring: `TlsConnect`, a [`Connect`] for every scheme.
//!
//! Which certificates are trusted and what we show of ourselves comes from files that are read again when they
//! change ([`meshwork_tls`]); here is what a connection needs besides.

mod fault;
mod peer;
mod stream;

use std::{fmt, sync::Arc};

use meshwork_core::{AddressRules, BoxFuture, Endpoint, Error, ErrorChain, Host};
use meshwork_tls::ClientTls;
pub use meshwork_tls::TlsConfig;
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::{
    CallError, CallErrorKind, Connect, Connected, Protocol, TlsUse, connect, tls::stream::Encrypted,
};

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// TCP with TLS where the scheme says so (`https`, `grpcs`), and plain TCP elsewhere.
///
/// ALPN offers `h2` for gRPC and `h2` or `http/1.1` for the rest. [`Connected::peer`] is the SPIFFE id in the
/// peer's certificate, else its first DNS name. Files are read at the first connection, and again at later ones
/// when they have changed; what cannot be used (cut short, a key that does not fit) changes nothing, with one
/// warning.
///
/// ```
/// # use std::sync::Arc;
/// # use meshwork_client::{ClientConfig, TlsConfig, TlsConnect};
/// let mut tls = TlsConfig::default();
/// tls.ca_file = Some("/etc/orders/ca.pem".into());
/// let mut config = ClientConfig::default();
/// config.connect = Arc::new(TlsConnect::new("`[client.users.tls]`", tls)?);
/// # Ok::<(), meshwork_core::Error>(())
/// ```
///
/// A configuration in which anything is set requires TLS: a record that offers plain endpoints only is none to
/// call, unless the client's `scheme` asks for them. An empty one prefers TLS.
pub struct TlsConnect {
    place: Box<str>,
    needed: bool,
    tls: ClientTls,
}

// === impl TlsConnect ===

impl TlsConnect {
    /// A connector. No I/O. `place` says in errors where `config` was written: "`[client.users.tls]`".
    ///
    /// # Errors
    /// [`Invalid`](meshwork_core::ErrorKind::Invalid) when one of `cert_file` and `key_file` is missing, or
    /// `server_name` is no name.
    pub fn new(place: &str, config: TlsConfig) -> Result<Self, Error> {
        Ok(Self { place: place.into(), needed: config.is_set(), tls: ClientTls::new(place, config)? })
    }

    /// The name that the peer's certificate must have.
    fn name_of(&self, to: &Endpoint) -> Result<ServerName<'static>, CallError> {
        let name = match (self.tls.server_name(), to.host()) {
            (Some(name), _) => return Ok(name.clone()),
            (None, Host::Ip(ip)) => return Ok(ServerName::IpAddress((*ip).into())),
            (None, Host::Name(name)) => name.trim_end_matches('.').to_owned(),
        };
        ServerName::try_from(name).map_err(|error| {
            let text = format!("the name to expect of `{to}`: set `server_name` of {}", self.place);
            CallError::new(CallErrorKind::Connect, text).with_source(error)
        })
    }

    /// What the files of the moment say, offering the protocols of an endpoint.
    async fn connector(&self, to: &Endpoint) -> Result<TlsConnector, CallError> {
        let client = self.tls.current().await.map_err(|error| {
            // Without a source: an attempt's one line is all that is told of a failed dial.
            CallError::new(CallErrorKind::Connect, format!("TLS to `{to}`: {}", ErrorChain(&error)))
        })?;
        let offered: &[&[u8]] = if to.scheme().is_grpc() { &[H2] } else { &[H2, HTTP1] };
        let mut client = (*client).clone();
        client.alpn_protocols = offered.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(TlsConnector::from(Arc::new(client)))
    }
}

impl Connect for TlsConnect {
    fn connect<'a>(
        &'a self,
        to: &'a Endpoint,
        rules: &'a AddressRules,
    ) -> BoxFuture<'a, Result<Connected, CallError>> {
        Box::pin(async move {
            if !to.scheme().is_tls() {
                return Ok(Connected::new(Box::new(connect::tcp(to, rules).await?)));
            }
            let (name, connector) = (self.name_of(to)?, self.connector(to).await?);
            let stream = connect::tcp(to, rules).await?;
            let stream = connector.connect(name, stream).await.map_err(|e| fault::of(to, e))?;
            let (_, session) = stream.get_ref();
            let protocol = match session.alpn_protocol() {
                Some(H2) => Some(Protocol::Http2),
                Some(HTTP1) => Some(Protocol::Http1),
                _ => None,
            };
            let peer = session.peer_certificates().and_then(|all| peer::name_in(all.first()?));
            Ok(Connected { io: Box::new(Encrypted::new(stream)), protocol, peer })
        })
    }

    fn tls(&self) -> TlsUse {
        if self.needed { TlsUse::Required } else { TlsUse::Preferred }
    }
}

impl fmt::Debug for TlsConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnect").field("tls", &self.tls).finish_non_exhaustive()
    }
}
