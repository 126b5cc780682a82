//! What is served: an axum router, tonic services, and the layers around both.

use std::{convert::Infallible, fmt, sync::Arc, task};

use axum::{
    Router,
    extract::Request,
    response::{IntoResponse, Response},
    routing::{Route, future::RouteFuture},
};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use meshwork_core::{BoxError, headers};
use tonic::{server::NamedService, service::Routes};
use tower_layer::Layer;
use tower_service::Service;

type Around = Arc<dyn Fn(Router) -> Router + Send + Sync>;

/// An axum router and tonic services that one listener serves.
///
/// Requests are split by `content-type` before either router sees them, so both may have a fallback. With
/// no gRPC service at all, gRPC requests reach the HTTP router.
///
/// ```
/// # use axum::{Router, routing::get};
/// # use meshwork_server::Services;
/// let services = Services::new().http(Router::new().route("/", get(|| async { "hello" })));
/// ```
#[derive(Clone, Default)]
pub struct Services {
    http: Option<Router>,
    grpc: Option<Routes>,
    names: Vec<&'static str>,
    layers: Vec<Around>,
}

impl Services {
    /// Nothing but health and the confirmation.
    pub fn new() -> Self {
        Self::default()
    }

    /// Serves `router`; again = merged.
    ///
    /// # Panics
    /// As [`Router::merge`] does, when two routers have a route or a fallback in common.
    #[must_use]
    pub fn http(mut self, router: Router) -> Self {
        self.http = Some(match self.http {
            Some(own) => own.merge(router),
            None => router,
        });
        self
    }

    /// Serves all services of `routes`; again = merged. Their names stay unknown to gRPC health; see
    /// [`grpc_service`](Self::grpc_service).
    ///
    /// # Panics
    /// When one service is added twice.
    #[must_use]
    pub fn grpc(mut self, routes: Routes) -> Self {
        self.grpc = Some(match self.grpc {
            Some(own) => {
                let added = routes.into_axum_router().reset_fallback();
                Routes::from(own.into_axum_router().merge(added))
            }
            None => routes,
        });
        self
    }

    /// Serves one generated tonic server, intercepted or not, and makes its name known to gRPC health.
    ///
    /// # Panics
    /// When the service is added twice.
    #[must_use]
    pub fn grpc_service<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<tonic::body::Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: IntoResponse,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.grpc = Some(self.grpc.take().unwrap_or_default().add_service(service));
        self
    }

    /// Puts `layer` around all routers, HTTP and gRPC, whenever they are added; the last one added is the
    /// outermost. Health and the confirmation stay outside.
    #[must_use]
    pub fn layer<L>(mut self, layer: L) -> Self
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Request> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Response: IntoResponse + 'static,
        <L::Service as Service<Request>>::Error: Into<Infallible> + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        self.layers.push(Arc::new(move |router: Router| router.layer(layer.clone())));
        self
    }

    /// Whether an HTTP router was added.
    pub fn has_http(&self) -> bool {
        self.http.is_some()
    }

    /// Whether a gRPC service was added.
    pub fn has_grpc(&self) -> bool {
        self.grpc.is_some()
    }

    /// The names of the gRPC services added by [`grpc_service`](Self::grpc_service).
    pub fn grpc_names(&self) -> &[&'static str] {
        &self.names
    }

    /// Parts it into what serves HTTP and what serves gRPC, for two listeners; both keep all layers.
    pub fn into_two(self) -> (Self, Self) {
        let http = Self { http: self.http, layers: self.layers.clone(), ..Self::default() };
        let grpc = Self { grpc: self.grpc, names: self.names, layers: self.layers, ..Self::default() };
        (http, grpc)
    }

    /// As one service, for calls inside the process. Health, context and limits are the server's and absent.
    pub fn into_service(self) -> Split {
        let around = |router: Router| {
            let router = self.layers.iter().fold(router, |router, layer| layer(router));
            // Prepares the router once, so that calls need not.
            router.with_state(())
        };
        let http = self.http.map(around);
        let grpc = self.grpc.map(|routes| around(routes.into_axum_router()));
        match (http, grpc) {
            (Some(http), Some(grpc)) => Split { http, grpc },
            (Some(http), None) => Split { grpc: http.clone(), http },
            (None, grpc) => Split {
                http: Router::new(),
                grpc: grpc.unwrap_or_else(|| Routes::default().into_axum_router().with_state(())),
            },
        }
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services")
            .field("http", &self.has_http())
            .field("grpc", &self.names)
            .field("layers", &self.layers.len())
            .finish_non_exhaustive()
    }
}

/// [`Services`] as one tower service: gRPC to one router, everything else to the other.
#[derive(Clone, Debug)]
pub struct Split {
    http: Router,
    grpc: Router,
}

impl Split {
    /// Starts a request on the router for it.
    pub(crate) fn route<B>(&self, request: http::Request<B>, grpc: bool) -> RouteFuture<Infallible>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut router = if grpc { self.grpc.clone() } else { self.http.clone() };
        router.call(request)
    }
}

impl<B> Service<http::Request<B>> for Split
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(&mut self, _cx: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let grpc = content_type.is_some_and(headers::is_grpc);
        self.route(request, grpc)
    }
}
