//! TLS towards the agent: its files, and what is made of them. ring only.

use std::{path::Path, sync::Arc};

use hyper_rustls::ConfigBuilderExt;
use meshwork_core::Error;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use crate::config::TlsConfig;

/// The contents of the files that a configuration names.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Files {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl Files {
    /// Reads them.
    ///
    /// # Errors
    /// `Invalid` naming the file.
    pub(crate) async fn read(config: &TlsConfig) -> Result<Self, Error> {
        Ok(Self {
            ca: read(config.ca_file.as_deref()).await?,
            cert: read(config.cert_file.as_deref()).await?,
            key: read(config.key_file.as_deref()).await?,
        })
    }

    /// What rustls needs.
    ///
    /// # Errors
    /// `Invalid` when a file holds nothing that can be used.
    pub(crate) fn client(&self) -> Result<ClientConfig, Error> {
        let invalid = |what: &str| Error::invalid(format!("consul `tls`: {what}"));
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| invalid("protocol versions").with_source(e))?;
        let builder = match &self.ca {
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for cert in certificates(pem, "ca_file")? {
                    roots.add(cert).map_err(|e| invalid("ca_file").with_source(e))?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder.with_webpki_roots(),
        };
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let key = PrivateKeyDer::from_pem_slice(key)
                    .map_err(|e| invalid("key_file holds no private key").with_source(e))?;
                builder
                    .with_client_auth_cert(certificates(cert, "cert_file")?, key)
                    .map_err(|e| invalid("cert_file and key_file").with_source(e))
            }
            _ => Ok(builder.with_no_client_auth()),
        }
    }
}

/// The name that the agent's certificate must have, where one is set.
///
/// # Errors
/// `Invalid` when it is no name.
pub(crate) fn server_name(config: &TlsConfig) -> Result<Option<ServerName<'static>>, Error> {
    let Some(name) = config.server_name.clone() else { return Ok(None) };
    let name = ServerName::try_from(name);
    name.map(Some).map_err(|e| Error::invalid("consul `tls.server_name`").with_source(e))
}

async fn read(file: Option<&Path>) -> Result<Option<Vec<u8>>, Error> {
    let Some(file) = file else { return Ok(None) };
    let read = tokio::fs::read(file).await;
    read.map(Some).map_err(|e| Error::invalid(format!("reading {}", file.display())).with_source(e))
}

fn certificates(pem: &[u8], key: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let said = || Error::invalid(format!("consul `tls`: {key} holds no certificate"));
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| said().with_source(e))?;
    if all.is_empty() { Err(said()) } else { Ok(all) }
}
