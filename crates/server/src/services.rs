//! What is served: an axum router, tonic services, and the layers around both.

use std::{convert::Infallible, fmt, sync::Arc};

use axum::{
    Router,
    extract::Request,
    response::IntoResponse,
    routing::{Route, future::RouteFuture},
};
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
    web: bool,
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

    /// Serves gRPC-Web too: browsers call the same services, on HTTP/1.1 or HTTP/2, by the content types
    /// `application/grpc-web` and `application/grpc-web-text`. Without it such requests are the HTTP router's.
    ///
    /// Handlers and layers see gRPC. What other origins may call is a layer's to say (`CorsLayer` of tower-http).
    #[must_use]
    pub fn grpc_web(mut self) -> Self {
        self.web = true;
        self
    }

    /// Whether gRPC-Web is served.
    pub fn has_grpc_web(&self) -> bool {
        self.web && self.grpc.is_some()
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
        let grpc =
            Self { grpc: self.grpc, names: self.names, layers: self.layers, web: self.web, http: None };
        (http, grpc)
    }

    /// As one service; health, context and limits are the server's.
    pub(crate) fn into_service(self) -> Split {
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
                // Layers answer what no route does: a browser's question before a call.
                http: around(Router::new()),
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

/// [`Services`], ready to be called: gRPC to one router, everything else to the other.
#[derive(Clone, Debug)]
pub(crate) struct Split {
    http: Router,
    grpc: Router,
}

impl Split {
    /// Starts a request on the router for it.
    pub(crate) fn route(&self, request: Request, grpc: bool) -> RouteFuture<Infallible> {
        let mut router = if grpc { self.grpc.clone() } else { self.http.clone() };
        router.call(request)
    }
}
