//! Certificates of a test's own authority, and clients that speak TLS.

use std::{fs, net::SocketAddr, path::PathBuf, sync::Arc};

use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meshwork_server::{ClientAuth, Listener, ServerTlsConfig, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use crate::support::H2;

/// A folder with the files of a server, and the authority that signs them.
pub(crate) struct Authority {
    ca: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key, in PEM.
pub(crate) struct Signed {
    cert: String,
    key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let own = Self { ca, folder: tempfile::tempdir().unwrap() };
        fs::write(own.path("ca"), own.ca.pem()).unwrap();
        own.renew();
        own
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new pair for the server.
    pub(crate) fn renew(&self) {
        let signed = self.sign("users.test", None);
        fs::write(self.path("cert"), signed.cert).unwrap();
        fs::write(self.path("key"), signed.key).unwrap();
    }

    pub(crate) fn sign(&self, dns: &str, spiffe: Option<&str>) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        if let Some(id) = spiffe {
            params.subject_alt_names.push(SanType::URI(id.try_into().unwrap()));
        }
        Signed { cert: params.signed_by(&key, &self.ca).unwrap().pem(), key: key.serialize_pem() }
    }

    /// The server's TLS. With `auth` callers are asked for a certificate of this authority.
    pub(crate) fn tls(&self, auth: Option<ClientAuth>) -> Tls {
        let mut config = ServerTlsConfig::default();
        config.cert_file = Some(self.path("cert"));
        config.key_file = Some(self.path("key"));
        if let Some(auth) = auth {
            config.client_ca_file = Some(self.path("ca"));
            config.client_auth = auth;
        }
        Tls::new("`[service.tls]`", config).unwrap()
    }

    pub(crate) async fn listener(&self, auth: Option<ClientAuth>) -> Listener {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        listener.with_encryption(self.tls(auth))
    }

    /// A client that trusts this authority and shows `own`.
    pub(crate) fn client(&self, own: Option<&Signed>, alpn: &[&[u8]]) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match own {
            Some(own) => {
                let cert = CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Client(TlsConnector::from(Arc::new(config)))
    }
}

/// Connects through TLS.
#[derive(Clone)]
pub(crate) struct Client(TlsConnector);

pub(crate) type Stream = TlsStream<TcpStream>;

impl Client {
    pub(crate) async fn connect(&self, addr: SocketAddr) -> std::io::Result<Stream> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        self.0.connect(ServerName::try_from("users.test").unwrap(), stream).await
    }

    pub(crate) async fn h2(&self, addr: SocketAddr) -> H2 {
        let io = TokioIo::new(self.connect(addr).await.unwrap());
        let (sender, connection) =
            http2::handshake::<_, _, Full<bytes::Bytes>>(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

/// The certificate that the server showed.
pub(crate) fn shown(stream: &Stream) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
}
