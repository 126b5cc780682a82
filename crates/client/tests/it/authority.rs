//! A certificate authority of the test, and a server that speaks TLS with what it signs.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use meshwork_core::headers;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};
use tower_service::Service;

use crate::echo::Echo;

/// Signs certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, in PEM.
pub(crate) struct Signed {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "the authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Signs a certificate for these DNS names, addresses and SPIFFE ids.
    pub(crate) fn sign(&self, names: &[&str]) -> Signed {
        self.sign_with(names, |_| {})
    }

    pub(crate) fn sign_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Signed {
        let (ids, names): (Vec<&str>, Vec<&str>) =
            names.iter().copied().partition(|name| name.contains("://"));
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.subject_alt_names.extend(ids.iter().map(|id: &&str| SanType::URI((*id).try_into().unwrap())));
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { cert, key: key.serialize_pem() }
    }

    /// Its own certificate in a file.
    pub(crate) fn file(&self, dir: &Path) -> PathBuf {
        write(dir, "ca.pem", &self.pem)
    }

    fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()
    }
}

/// Writes a file of the test.
pub(crate) fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

/// A server that speaks TLS: `users/<name>` answers its name, and `test.Echo` over gRPC.
pub(crate) struct TlsPeer {
    pub(crate) addr: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    name: &'static str,
    accepted: AtomicUsize,
    /// The certificates of the clients, and the protocols spoken, by connection.
    shown: Mutex<Vec<Vec<u8>>>,
    spoken: Mutex<Vec<Option<Vec<u8>>>>,
    cut: Notify,
}

impl TlsPeer {
    /// Shows `signed`, and offers `protocols`. `clients`: who signs the clients' certificates, if they must
    /// show one.
    pub(crate) async fn start(
        name: &'static str,
        signed: &Signed,
        protocols: &[&str],
        clients: Option<&Authority>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config(signed, protocols, clients)));
        let (shown, spoken) = (Mutex::default(), Mutex::default());
        let state =
            Arc::new(State { name, accepted: AtomicUsize::new(0), shown, spoken, cut: Notify::new() });
        let task = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    state.accepted.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(serve(acceptor.clone(), stream, Arc::clone(&state)));
                }
            }
        });
        Self { addr, state, task }
    }

    /// TCP connections accepted ever.
    pub(crate) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// The certificates that clients showed, oldest first.
    pub(crate) fn shown(&self) -> Vec<Vec<u8>> {
        self.state.shown.lock().unwrap().clone()
    }

    /// The protocol of the last connection.
    pub(crate) fn spoken(&self) -> Option<String> {
        let last = self.state.spoken.lock().unwrap().last().cloned().flatten()?;
        Some(String::from_utf8(last).unwrap())
    }

    /// Closes all connections.
    pub(crate) fn cut(&self) {
        self.state.cut.notify_waiters();
    }
}

impl Drop for TlsPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn config(signed: &Signed, protocols: &[&str], clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.certificate()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
    };
    let cert = CertificateDer::from_pem_slice(signed.cert.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(signed.key.as_bytes()).unwrap();
    let mut config = builder.with_single_cert(vec![cert], key).unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, state: Arc<State>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let session = stream.get_ref().1;
    state.spoken.lock().unwrap().push(session.alpn_protocol().map(<[u8]>::to_vec));
    if let Some(shown) = session.peer_certificates().and_then(|all| all.first()) {
        state.shown.lock().unwrap().push(shown.to_vec());
    }
    let name = state.name;
    let service = hyper::service::service_fn(move |request| answer(name, request));
    let builder = auto::Builder::new(TokioExecutor::new());
    tokio::select! {
        _ended = builder.serve_connection(TokioIo::new(stream), service) => {}
        () = state.cut.notified() => {}
    }
}

async fn answer(
    name: &'static str,
    request: Request<Incoming>,
) -> Result<Response<tonic::body::Body>, Infallible> {
    let is_grpc = request.headers().get("content-type").is_some_and(|value| value == "application/grpc");
    if is_grpc {
        return Echo.call(request.map(tonic::body::Body::new)).await;
    }
    let mut answer = Response::new(tonic::body::Body::new(name.to_owned()));
    if request.uri().path() == headers::CONFIRM_PATH {
        answer.headers_mut().insert(headers::IS, format!("users/{name}").parse().unwrap());
    }
    Ok(answer)
}
