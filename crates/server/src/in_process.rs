//! Services called without a socket, through the same door as those of a listener.

use std::{
    convert::Infallible,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    task,
};

use axum::body::Body;
use bytes::Bytes;
use http::{Request, Response};
use meshwork_core::{BoxError, BoxFuture};
use tower_service::Service;

use crate::{
    Health, Identity, ServerConfig, Services,
    conn::Conn,
    dispatch::{Dispatch, Doors},
    shared::Shared,
};

/// From where calls inside the process seem to come.
const HERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// [`Services`] as one tower service, for tests and for calls inside a process. There is no socket, but all else: the split
/// by content type, layers, context and deadline, limits, health, identity, and a panic is an answer.
///
/// Callers come from `127.0.0.1:0`. Clones are one server.
///
/// ```
/// # use axum::{Router, body::Body, routing::get};
/// # use meshwork_server::{Health, Identity, InProcess, ServerConfig, Services};
/// # use tower::ServiceExt;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let services = Services::new().http(Router::new().route("/", get(|| async { "hello" })));
/// let service = InProcess::new(ServerConfig::default(), Identity::new(), Health::new(), services);
/// let answer = service.oneshot(http::Request::get("/").body(Body::empty())?).await?;
/// assert_eq!(answer.status(), 200);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct InProcess(Arc<Dispatch>);

impl InProcess {
    /// Serves `services` with these limits.
    pub fn new(config: ServerConfig, identity: Identity, health: Health, services: Services) -> Self {
        services.grpc_names().iter().for_each(|name| health.know_service(name));
        let shared = Arc::new(Shared::new(config, identity, health));
        let doors = Arc::new(Doors::new(&shared, services));
        let conn = Arc::new(Conn::new(shared, HERE, HERE));
        Self(Arc::new(Dispatch::new(conn, doors)))
    }
}

impl<B> Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let answer = self.0.serve(request.map(Body::new));
        Box::pin(async move { Ok(answer.await?.map(Body::new)) })
    }
}

impl fmt::Debug for InProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcess").finish_non_exhaustive()
    }
}
