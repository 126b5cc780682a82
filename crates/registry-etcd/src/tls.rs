//! TLS towards the members: its files, and what is made of them. ring only.
//!
//! The files are read for every new connection. Files that cannot be used, as in the middle of a rotation,
//! leave what was made of those before in place, with one warning until they are well again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_rustls::{ConfigBuilderExt, FixedServerNameResolver, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use meshwork_core::{BoxError, BoxFuture, Error, ErrorChain};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{net::TcpStream, sync::Mutex};
use tonic::{codegen::Service, transport::Uri};

use crate::config::TlsConfig;

/// The TLS of one backend.
pub(crate) struct Tls {
    config: TlsConfig,
    server_name: Option<ServerName<'static>>,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    files: Files,
    client: Option<ClientConfig>,
    /// The present files cannot be used, and that was said.
    warned: bool,
}

/// The contents of the files that a configuration names.
#[derive(Default, PartialEq, Eq)]
struct Files {
    ca: Option<Vec<u8>>,
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

/// Dials one member with TLS.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: Arc<Tls>,
    to: Uri,
    connect_timeout: Duration,
}

// === impl Tls ===

impl Tls {
    /// Reads nothing yet.
    ///
    /// # Errors
    /// `Invalid` when `server_name` is no name.
    pub(crate) fn new(config: TlsConfig) -> Result<Self, Error> {
        let name = config.server_name.clone().map(ServerName::try_from).transpose();
        let server_name = name.map_err(|e| Error::invalid("etcd `tls.server_name`").with_source(e))?;
        Ok(Self { config, server_name, used: Mutex::default() })
    }

    /// What the files say now, or said when they could be used last.
    ///
    /// # Errors
    /// `Invalid` naming key and file when they never could.
    pub(crate) async fn client(&self) -> Result<ClientConfig, Error> {
        let mut used = self.used.lock().await;
        let read = async {
            let files = Files::read(&self.config).await?;
            if used.files == files
                && let Some(client) = &used.client
            {
                return Ok((files, client.clone()));
            }
            let client = files.client(&self.config)?;
            Ok::<_, Error>((files, client))
        };
        match (read.await, used.client.take()) {
            (Ok((files, client)), before) => {
                if before.is_some() && used.files != files {
                    tracing::info!("etcd TLS files have changed: new connections use them");
                }
                *used = Used { files, client: Some(client.clone()), warned: false };
                Ok(client)
            }
            (Err(error), Some(before)) => {
                if !used.warned {
                    tracing::warn!(error = %ErrorChain(&error), "etcd TLS files cannot be used: those read before are");
                }
                used.warned = true;
                used.client = Some(before.clone());
                Ok(before)
            }
            (Err(error), None) => Err(error),
        }
    }
}

// === impl Files ===

impl Files {
    async fn read(config: &TlsConfig) -> Result<Self, Error> {
        Ok(Self {
            ca: read("ca_file", config.ca_file.as_deref()).await?,
            cert: read("cert_file", config.cert_file.as_deref()).await?,
            key: read("key_file", config.key_file.as_deref()).await?,
        })
    }

    fn client(&self, config: &TlsConfig) -> Result<ClientConfig, Error> {
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::invalid("etcd `tls`: protocol versions").with_source(e))?;
        let builder = match &self.ca {
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for cert in certificates(pem, "ca_file", config.ca_file.as_ref())? {
                    roots
                        .add(cert)
                        .map_err(|e| useless("ca_file", config.ca_file.as_ref()).with_source(e))?;
                }
                builder.with_root_certificates(roots)
            }
            None => builder.with_webpki_roots(),
        };
        let (Some(cert), Some(key)) = (&self.cert, &self.key) else {
            return Ok(builder.with_no_client_auth());
        };
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|e| useless("key_file", config.key_file.as_ref()).with_source(e))?;
        let chain = certificates(cert, "cert_file", config.cert_file.as_ref())?;
        builder.with_client_auth_cert(chain, key).map_err(|e| {
            // Also when the key belongs to another certificate.
            useless("key_file", config.key_file.as_ref()).with_source(e)
        })
    }
}

async fn read(key: &str, file: Option<&Path>) -> Result<Option<Vec<u8>>, Error> {
    let Some(file) = file else { return Ok(None) };
    let read = tokio::fs::read(file).await;
    read.map(Some)
        .map_err(|e| Error::invalid(format!("reading etcd `tls.{key}` {}", file.display())).with_source(e))
}

fn certificates(
    pem: &[u8],
    key: &str,
    file: Option<&PathBuf>,
) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|e| useless(key, file).with_source(e))?;
    if all.is_empty() { Err(useless(key, file).with_source("it holds no certificate")) } else { Ok(all) }
}

fn useless(key: &str, file: Option<&PathBuf>) -> Error {
    let file = file.map(|file| file.display().to_string()).unwrap_or_default();
    Error::invalid(format!("using etcd `tls.{key}` {file}"))
}

// === impl Dialer ===

impl Dialer {
    pub(crate) fn new(tls: Arc<Tls>, to: Uri, connect_timeout: Duration) -> Self {
        Self { tls, to, connect_timeout }
    }

    async fn dial(self) -> Result<MaybeHttpsStream<TokioIo<TcpStream>>, BoxError> {
        let client = self.tls.client().await?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(self.connect_timeout));
        let builder = HttpsConnectorBuilder::new().with_tls_config(client).https_only();
        let builder = match &self.tls.server_name {
            Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name.clone())),
            None => builder,
        };
        builder.enable_http2().wrap_connector(tcp).call(self.to).await
    }
}

impl Service<Uri> for Dialer {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::atomic::{AtomicU32, Ordering},
    };

    use meshwork_core::ErrorKind;
    use tracing::{Event, Level, Metadata, Subscriber, span};

    use super::*;

    /// Counts warnings.
    #[derive(Clone, Default)]
    struct Warnings(Arc<AtomicU32>);

    impl Subscriber for Warnings {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            *metadata.level() == Level::WARN
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &Event<'_>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    fn certificate() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(vec!["etcd.test".to_owned()]).unwrap();
        (cert.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn configured(dir: &Path) -> TlsConfig {
        let file = |name: &str| Some(dir.join(name));
        TlsConfig { ca_file: file("ca"), cert_file: file("cert"), key_file: file("key"), server_name: None }
    }

    #[tokio::test]
    async fn files_in_the_middle_of_a_rotation_are_not_used_and_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let ((cert, key), (next_cert, next_key)) = (certificate(), certificate());
        write("ca", &cert);
        write("cert", &cert);
        write("key", &key);
        let warnings = Warnings::default();
        let _told = tracing::subscriber::set_default(warnings.clone());
        let tls = Tls::new(configured(dir.path())).unwrap();
        tls.client().await.unwrap();
        let read = async || tls.used.lock().await.files.cert.clone();

        write("cert", &next_cert);
        tls.client().await.unwrap();
        write("cert", &next_cert[..next_cert.len() / 2]);
        tls.client().await.unwrap();
        fs::remove_file(dir.path().join("cert")).unwrap();
        tls.client().await.unwrap();
        assert_eq!(read().await, Some(cert.into_bytes()), "what was read before is used");
        assert_eq!(warnings.0.load(Ordering::Relaxed), 1);

        write("cert", &next_cert);
        write("key", &next_key);
        tls.client().await.unwrap();
        assert_eq!(read().await, Some(next_cert.into_bytes()));
        write("ca", "");
        tls.client().await.unwrap();
        assert_eq!(warnings.0.load(Ordering::Relaxed), 2, "another rotation is another warning");
    }

    #[tokio::test]
    async fn files_that_never_could_be_used_are_an_error_of_their_key() {
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = certificate();
        let tls = Tls::new(configured(dir.path())).unwrap();
        let refused = async |key: &str| {
            let error = tls.client().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(key), "{error}");
        };
        refused("tls.ca_file").await;
        fs::write(dir.path().join("ca"), &cert).unwrap();
        refused("tls.cert_file").await;
        fs::write(dir.path().join("cert"), "no certificate").unwrap();
        fs::write(dir.path().join("key"), &key).unwrap();
        refused("tls.cert_file").await;
        fs::write(dir.path().join("cert"), &cert).unwrap();
        fs::write(dir.path().join("key"), &cert).unwrap();
        refused("tls.key_file").await;
        fs::write(dir.path().join("key"), &key).unwrap();
        tls.client().await.unwrap();
    }
}
