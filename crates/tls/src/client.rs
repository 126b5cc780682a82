//! TLS towards a server.

use std::{fmt, sync::Arc};

use meshwork_core::{Error, ErrorKind};
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};

use crate::{
    TlsConfig,
    files::Contents,
    pem::{self, Pair},
    rotating::Rotating,
};

/// What rustls needs towards a server, made of the files that a [`TlsConfig`] names.
pub struct ClientTls {
    server_name: Option<ServerName<'static>>,
    rotating: Rotating<ClientConfig>,
}

impl ClientTls {
    /// Reads nothing yet. `place` says in errors where it is configured: "`[registry.etcd.tls]`".
    ///
    /// # Errors
    /// [`Invalid`](meshwork_core::ErrorKind::Invalid) when one of `cert_file` and `key_file` is missing, or
    /// `server_name` is no name.
    pub fn new(place: &str, config: TlsConfig) -> Result<Self, Error> {
        if config.cert_file.is_some() != config.key_file.is_some() {
            return Err(pem::half(place));
        }
        let name = config.server_name.map(ServerName::try_from).transpose();
        let server_name =
            name.map_err(|error| Error::invalid(format!("`server_name` of {place}")).with_source(error))?;
        let platform = config.platform_roots || config.ca_file.is_none();
        let named =
            [("ca_file", config.ca_file), ("cert_file", config.cert_file), ("key_file", config.key_file)]
                .into_iter()
                .filter_map(|(key, path)| Some((key, path?)))
                .collect();
        let at = Box::<str>::from(place);
        let make = move |contents: &Contents| client(contents, &at);
        Ok(Self { server_name, rotating: Rotating::new(place, named, platform, make) })
    }

    /// What the files say now, or said when they could be used last.
    ///
    /// # Errors
    /// [`Invalid`](meshwork_core::ErrorKind::Invalid), naming key and file, while they could never be used.
    ///
    /// # Cancel safety
    /// May be dropped; nothing is lost.
    pub async fn current(&self) -> Result<Arc<ClientConfig>, Error> {
        self.rotating.current().await
    }

    /// The name that the server's certificate must have, where one is configured.
    pub fn server_name(&self) -> Option<&ServerName<'static>> {
        self.server_name.as_ref()
    }
}

/// A configuration that trusts nobody, where a type asks for one and no TLS is spoken.
///
/// # Errors
/// [`Unsupported`](meshwork_core::ErrorKind::Unsupported) when rustls offers no version of TLS.
pub fn trusting_nobody() -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Unsupported, "TLS versions").with_source(error))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

fn client(contents: &Contents, place: &str) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid(format!("TLS versions of {place}")).with_source(error))?
        .with_root_certificates(roots(contents, place)?);
    match pem::pair(contents, place)? {
        None => Ok(builder.with_no_client_auth()),
        Some(Pair { chain, key, file }) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| file.invalid("is not the key of `cert_file`").with_source(error)),
    }
}

fn roots(contents: &Contents, place: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = contents.of(place, "ca_file")? {
        pem::trust(&mut roots, &file)?;
    }
    // What of the machine's set cannot be used is none of the server's signers.
    roots.add_parsable_certificates(contents.platform.iter().cloned());
    if roots.is_empty() {
        return Err(Error::invalid(format!("this machine trusts no certificates: set `ca_file` of {place}")));
    }
    Ok(roots)
}
