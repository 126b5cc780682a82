//! TLS towards instances, by rustls with ring: `TlsConnect`, a [`Connect`] for every scheme.
//!
//! Which certificates are trusted and what we show of ourselves comes from files that are read again when they
//! change; a file that cannot be used changes nothing.

mod fault;
mod files;
mod peer;
mod stream;

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meshwork_core::{AddressRules, BoxFuture, Endpoint, ErrorChain, Host};
use tokio::time::Instant;
use tokio_rustls::{TlsConnector, rustls, rustls::pki_types::ServerName};

use crate::{
    CallError, CallErrorKind, Connect, Connected, Protocol, connect,
    tls::{files::Files, stream::Encrypted},
};

/// The files are looked at again at most so often, and only when a connection is opened.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

const H2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// How TLS is spoken to a service: what is trusted, and what is shown of ourselves.
///
/// Something must be trusted: `ca_file`, `platform_roots` or both. The files are read again when they have
/// changed, at the next connection; one that cannot be used (cut short, a key that does not fit) is left for
/// the last good one, with one warning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsConfig {
    /// PEM certificates that sign those of the instances. Default: none.
    pub ca_file: Option<PathBuf>,
    /// Whether the certificates that the machine trusts are trusted too; they are read once. Default: no.
    pub platform_roots: bool,
    /// PEM certificate (chain) that we show when asked. Default: none.
    pub cert_file: Option<PathBuf>,
    /// PEM key of `cert_file`. Default: none.
    pub key_file: Option<PathBuf>,
    /// The name that the certificates of the instances must have, and that we ask for (SNI). Default: the
    /// host of the endpoint.
    pub server_name: Option<String>,
}

/// TCP with TLS where the scheme says so (`https`, `grpcs`), and plain TCP elsewhere.
///
/// ALPN offers `h2` for gRPC and `h2` or `http/1.1` for the rest. [`Connected::peer`] is the SPIFFE id in the
/// peer's certificate, else its first DNS name.
pub struct TlsConnect {
    config: TlsConfig,
    state: Mutex<State>,
}

/// What the files of the moment came to.
#[derive(Default)]
struct State {
    looked: Option<Instant>,
    /// The contents last judged, good or bad.
    judged: Option<Files>,
    good: Option<Offers>,
}

/// One configuration per kind of endpoint.
#[derive(Clone)]
struct Offers {
    grpc: Arc<rustls::ClientConfig>,
    http: Arc<rustls::ClientConfig>,
}

// === impl TlsConnect ===

impl TlsConnect {
    /// A connector. No I/O: the files are read at the first connection.
    pub fn new(config: TlsConfig) -> Self {
        Self { config, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configuration of the moment, read again when it is time to look.
    async fn offers(&self) -> Result<Offers, CallError> {
        let now = Instant::now();
        {
            let mut state = self.state();
            let recent = state.looked.is_some_and(|looked| now.duration_since(looked) < LOOK_AGAIN);
            if let (true, Some(good)) = (recent, &state.good) {
                return Ok(good.clone());
            }
            state.looked = Some(now);
        }
        self.judge(Files::read(&self.config).await)
    }

    /// Takes what was read, or stays with the last good files and says so once.
    fn judge(&self, files: Files) -> Result<Offers, CallError> {
        let mut state = self.state();
        if let (Some(judged), Some(good)) = (&state.judged, &state.good)
            && *judged == files
        {
            return Ok(good.clone());
        }
        let made = files.client(&self.config).map(|client| Offers::of(&client));
        state.judged = Some(files);
        match (made, &state.good) {
            (Ok(offers), before) => {
                if before.is_some() {
                    tracing::info!("TLS files changed and were read again");
                }
                state.good = Some(offers.clone());
                Ok(offers)
            }
            (Err(error), Some(good)) => {
                let error = ErrorChain(&error);
                tracing::warn!(%error, "TLS files changed and cannot be used; the old ones stay");
                Ok(good.clone())
            }
            (Err(error), None) => Err(error),
        }
    }

    /// The name that the peer's certificate must have.
    fn name_of(&self, to: &Endpoint) -> Result<ServerName<'static>, CallError> {
        let name = match (&self.config.server_name, to.host()) {
            (Some(name), _) => name.clone(),
            (None, Host::Ip(ip)) => return Ok(ServerName::IpAddress((*ip).into())),
            (None, Host::Name(name)) => name.trim_end_matches('.').to_owned(),
        };
        ServerName::try_from(name).map_err(|error| {
            let text = format!("the name to expect of `{to}`; set `[client.<service>.tls] server_name`");
            CallError::new(CallErrorKind::Connect, text).with_source(error)
        })
    }
}

impl Offers {
    fn of(client: &rustls::ClientConfig) -> Self {
        let offering = |protocols: &[&[u8]]| {
            let mut client = client.clone();
            client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
            Arc::new(client)
        };
        Self { grpc: offering(&[H2]), http: offering(&[H2, HTTP1]) }
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
            let (name, offers) = (self.name_of(to)?, self.offers().await?);
            let offer = if to.scheme().is_grpc() { offers.grpc } else { offers.http };
            let stream = connect::tcp(to, rules).await?;
            let stream =
                TlsConnector::from(offer).connect(name, stream).await.map_err(|e| fault::of(to, e))?;
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
}

impl fmt::Debug for TlsConnect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnect").field("config", &self.config).finish_non_exhaustive()
    }
}
