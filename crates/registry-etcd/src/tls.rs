//! Dials members with TLS of our own under tonic's channel, so that rotated files count at the next connection.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioIo};
use meshwork_core::{BoxError, BoxFuture};
use meshwork_tls::ClientTls;
use tokio::net::TcpStream;
use tonic::{codegen::Service, transport::Uri};

/// Dials one member with TLS.
#[derive(Clone)]
pub(crate) struct Dialer {
    tls: Arc<ClientTls>,
    to: Uri,
    connect_timeout: Duration,
}

impl Dialer {
    pub(crate) fn new(tls: Arc<ClientTls>, to: Uri, connect_timeout: Duration) -> Self {
        Self { tls, to, connect_timeout }
    }

    async fn dial(self) -> Result<MaybeHttpsStream<TokioIo<TcpStream>>, BoxError> {
        let client = self.tls.current().await?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(self.connect_timeout));
        let builder = HttpsConnectorBuilder::new().with_tls_config((*client).clone()).https_only();
        let builder = match self.tls.server_name() {
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
