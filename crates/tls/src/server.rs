//! TLS at a listener of ours.

use std::{fmt, sync::Arc};

use meshwork_core::Error;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::{
    ClientAuth, ServerTlsConfig,
    files::Contents,
    pem::{self, Pair},
    rotating::Rotating,
};

/// What rustls needs at a listener, made of the files that a [`ServerTlsConfig`] names.
pub struct ServerTls(Rotating<ServerConfig>);

impl ServerTls {
    /// Reads nothing yet. `place` says in errors where it is configured: "`[service.tls]`". `alpn` are the
    /// protocols offered, the dearest first.
    ///
    /// # Errors
    /// [`Invalid`](meshwork_core::ErrorKind::Invalid) when `cert_file` or `key_file` is missing.
    pub fn new(place: &str, config: ServerTlsConfig, alpn: &[&[u8]]) -> Result<Self, Error> {
        let (Some(cert), Some(key)) = (config.cert_file, config.key_file) else {
            return Err(Error::invalid(format!("{place} needs both `cert_file` and `key_file`")));
        };
        let mut named = vec![("cert_file", cert), ("key_file", key)];
        named.extend(config.client_ca_file.map(|path| ("client_ca_file", path)));
        let alpn: Vec<_> = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let (auth, at) = (config.client_auth, Box::<str>::from(place));
        let make = move |contents: &Contents| {
            let mut server = server(contents, auth, &at)?;
            server.alpn_protocols.clone_from(&alpn);
            Ok(server)
        };
        Ok(Self(Rotating::new(place, named, false, make)))
    }

    /// What the files say now, or said when they could be used last. Connections that stand keep what they
    /// were opened with.
    ///
    /// # Errors
    /// [`Invalid`](meshwork_core::ErrorKind::Invalid), naming key and file, while they could never be used.
    ///
    /// # Cancel safety
    /// May be dropped; nothing is lost.
    pub async fn current(&self) -> Result<Arc<ServerConfig>, Error> {
        self.0.current().await
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

fn server(contents: &Contents, auth: ClientAuth, place: &str) -> Result<ServerConfig, Error> {
    let builder = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid(format!("TLS versions of {place}")).with_source(error))?;
    let builder = match verifier(contents, auth, place)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let Pair { chain, key, file } = pem::pair(contents, place)?.ok_or_else(|| pem::half(place))?;
    builder
        .with_single_cert(chain, key)
        .map_err(|error| file.invalid("is not the key of `cert_file`").with_source(error))
}

/// Judges the certificates of callers, where they are asked for one.
fn verifier(
    contents: &Contents,
    auth: ClientAuth,
    place: &str,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, Error> {
    let Some(file) = contents.of(place, "client_ca_file")? else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    pem::trust(&mut roots, &file)?;
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), ring::default_provider().into());
    let builder = match auth {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    let verifier =
        builder.build().map_err(|error| file.invalid("cannot judge callers").with_source(error))?;
    Ok(Some(verifier))
}
