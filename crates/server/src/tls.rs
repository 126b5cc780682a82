//! TLS at a listener, by rustls with ring.

use std::{fmt, io};

use bytes::Bytes;
use meshwork_core::{BoxFuture, Error};
pub use meshwork_tls::{ClientAuth, ServerTlsConfig};
use meshwork_tls::{Names, ServerTls, caller_advice, tls_of};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, rustls::pki_types::CertificateDer};

use crate::{Encrypt, Encrypted, PeerIdentity, Unencrypted};

/// The protocols offered by ALPN, the dearest first.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// TLS at a listener: HTTP/2 and HTTP/1.1 by ALPN, with certificates from files.
///
/// The files are read again when they have changed, for the connections accepted from then on; those that stand
/// keep what they were opened with. What cannot be used (cut short, a key that does not fit) changes nothing, with
/// one warning.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use meshwork_server::{Listener, ServerTlsConfig, Tls};
/// let mut config = ServerTlsConfig::default();
/// config.cert_file = Some("/etc/orders/tls.pem".into());
/// config.key_file = Some("/etc/orders/tls.key".into());
/// let tls = Tls::new("`[service.tls]`", config)?;
/// tls.check().await?;
/// let listener = Listener::bind("0.0.0.0:8443".parse()?).await?.with_encryption(tls);
/// # Ok(())
/// # }
/// ```
pub struct Tls(ServerTls);

impl Tls {
    /// Reads nothing yet. `place` says in errors where `config` was written: "`[service.tls]`".
    ///
    /// # Errors
    /// [`Invalid`](meshwork_core::ErrorKind::Invalid) when `cert_file` or `key_file` is missing.
    pub fn new(place: &str, config: ServerTlsConfig) -> Result<Self, Error> {
        Ok(Self(ServerTls::new(place, config, ALPN)?))
    }

    /// Reads the files, to know before the first connection that they can be used.
    ///
    /// # Errors
    /// [`Invalid`](meshwork_core::ErrorKind::Invalid), naming key and file, when they cannot.
    ///
    /// # Cancel safety
    /// May be dropped; nothing is lost.
    pub async fn check(&self) -> Result<(), Error> {
        self.0.current().await.map(drop)
    }
}

impl Encrypt for Tls {
    fn accept(&self, stream: TcpStream) -> BoxFuture<'_, Result<Encrypted, Unencrypted>> {
        Box::pin(async move {
            let config = match self.0.current().await {
                Ok(config) => config,
                Err(error) => {
                    return Err(Unencrypted { error: io::Error::other(error), stream: Some(stream) });
                }
            };
            match TlsAcceptor::from(config).accept(stream).into_fallible().await {
                Ok(stream) => {
                    let peer = stream.get_ref().1.peer_certificates().and_then(identity);
                    Ok(Encrypted { stream: Box::new(stream), peer })
                }
                Err((error, stream)) => Err(Unencrypted { error: in_words(error), stream: Some(stream) }),
            }
        })
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.0).finish()
    }
}

fn identity(chain: &[CertificateDer<'static>]) -> Option<PeerIdentity> {
    let names = Names::of(chain.first()?);
    let chain = chain.iter().map(|certificate| Bytes::copy_from_slice(certificate)).collect();
    Some(PeerIdentity::new(names.spiffe, names.dns, chain))
}

/// The error of a handshake, with what to do about it.
fn in_words(error: io::Error) -> io::Error {
    match tls_of(&error).and_then(caller_advice) {
        Some(advice) => io::Error::new(error.kind(), advice),
        None => error,
    }
}
