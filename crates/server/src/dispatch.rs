//! The door every request comes through: refusals, our own answers, context, then the handler.

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{self, Poll},
    time::Duration,
};

use axum::{Router, routing::future::RouteFuture};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::Limited;
use hyper::body::{Body, Incoming};
use meshwork_core::{BoxError, Context, Priority, headers};
use meshwork_resilience::{Overload, deadline::Inherit};
use pin_project_lite::pin_project;
use tokio::time::Instant;
use tonic::Code;
use tower_service::Service;

use crate::{
    PeerIdentity, Place, Services, answer, body,
    conn::{Conn, InFlight},
    given::Given,
    handling::Handling,
    health_grpc,
    inbound::{self, Inbound, Meant},
    panics,
    patient::Patient,
    places::{Held, Upload},
    rest::Rest,
    services::Split,
    shared::{Shared, Stage},
    tunnel,
    uplink::Uplink,
    web::{self, Decoded, Encoding, Web},
};

/// How long foreign requests are still served after the drain has begun: they cannot know better.
const FOREIGN_GRACE: Duration = Duration::from_secs(1);
/// Under this all paths are ours.
const OWN: &str = "/.meshwork/";
const HEALTH: &str = "/.meshwork/health";
const READY: &str = "/.meshwork/ready";

/// Where requests may go.
#[derive(Debug)]
pub(crate) struct Doors {
    split: Split,
    health: Router,
    /// Whether gRPC-Web is spoken.
    web: bool,
}

impl Doors {
    pub(crate) fn new(shared: &Arc<Shared>, services: Services) -> Self {
        let health = health_grpc::router(shared.health.clone(), shared.draining.clone());
        let web = services.has_grpc_web();
        Self { split: services.into_service(), health, web }
    }
}

/// The service of one connection.
#[derive(Debug)]
pub(crate) struct Dispatch {
    conn: Arc<Conn>,
    doors: Arc<Doors>,
    given: Given,
}

impl Dispatch {
    pub(crate) fn new(conn: Arc<Conn>, doors: Arc<Doors>) -> Self {
        Self { conn, doors, given: Given::default() }
    }

    /// Begins one request of whatever it speaks.
    pub(crate) fn serve<B>(&self, mut request: Request<B>) -> Answering
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let web = if self.doors.web { web::accept(&mut request) } else { None };
        let handling = match web.map(|web| web.request) {
            Some(Encoding::Text) => self.handle(request.map(Decoded::new)),
            Some(Encoding::Binary) | None => self.handle(request),
        };
        Answering { handling, web }
    }

    /// An answer that needs no handler.
    fn answer<B>(&self, request: &Request<B>, inbound: &Inbound) -> Option<Response<body::Body>> {
        let shared = &self.conn.shared;
        let path = request.uri().path();
        // Health is told to the last.
        let own = path.starts_with(OWN);
        if own && !inbound.is_grpc() {
            match path {
                HEALTH => return Some(answer::json(StatusCode::OK, r#"{"alive":true}"#.into())),
                READY => {
                    let (ready, body) = shared.health.ready_json();
                    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                    return Some(answer::json(status, body));
                }
                _ => {}
            }
        }
        if self.refuses(inbound) {
            shared.counters.draining.fetch_add(1, Relaxed);
            return Some(answer::refused(inbound.is_grpc(), headers::REFUSED_DRAINING, &shared.identity));
        }
        if own && path == headers::CONFIRM_PATH {
            return Some(answer::confirmed(&shared.identity));
        }
        if inbound.meant == Meant::Another {
            shared.counters.misdirected.fetch_add(1, Relaxed);
            return Some(answer::refused(inbound.is_grpc(), headers::REFUSED_MISDIRECTED, &shared.identity));
        }
        if own {
            return Some(answer::not_found());
        }
        if inbound.carried.timeout() == Some(Duration::ZERO) {
            shared.counters.deadlines.fetch_add(1, Relaxed);
            let (status, code) = (StatusCode::GATEWAY_TIMEOUT, Code::DeadlineExceeded);
            return Some(answer::failed(inbound.is_grpc(), status, code, "the deadline passed"));
        }
        let limit = shared.config.max_body_bytes.filter(|_| !inbound.is_grpc());
        if limit.is_some_and(|limit| inbound.content_length.is_some_and(|length| length > limit)) {
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Some(answer::failed(false, status, Code::ResourceExhausted, "the body is too large"));
        }
        None
    }

    fn refuses(&self, inbound: &Inbound) -> bool {
        let shared = &self.conn.shared;
        if shared.stage() < Stage::Draining {
            return false;
        }
        let foreign = shared.config.edge || !inbound.native;
        // A native caller takes a refusal elsewhere for nothing; for a foreign one it is a failure.
        !foreign || shared.drain_began().is_none_or(|began| began.elapsed() > FOREIGN_GRACE)
    }

    fn context(&self, inbound: Inbound, now: Instant) -> Context {
        let config = &self.conn.shared.config;
        let inherit = Inherit {
            longest: config.max_deadline,
            absent: config.default_deadline,
            critical: inbound.carried.priority() == Priority::Critical && self.may_be_critical(),
        };
        let mut context = inherit.believe(inbound.carried, now);
        context.peer = Some(self.conn.who().clone());
        context
    }

    fn may_be_critical(&self) -> bool {
        let config = &self.conn.shared.config;
        let listed = |peer: &PeerIdentity| config.critical_identities.iter().any(|name| peer.is(name));
        config.critical_from.iter().any(|network| network.contains(self.conn.peer.ip()))
            || self.conn.proved().is_some_and(listed)
    }

    /// Hands the request to its router; nothing of a handler runs yet.
    fn route<B>(
        &self,
        mut request: Request<B>,
        grpc: bool,
        place: Option<&Place>,
    ) -> (RouteFuture<Infallible>, Option<Uplink>)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let conn = &self.conn;
        tunnel::dig(&mut request, conn);
        self.given.add(request.extensions_mut(), conn, grpc);
        if grpc && request.uri().path().starts_with(health_grpc::PREFIX) {
            return (self.doors.health.clone().call(request), None);
        }
        if let Some(place) = place {
            request.extensions_mut().insert(place.clone());
        }
        let (head, body) = request.into_parts();
        let (body, uplink) = self.body(body, grpc, place);
        (self.doors.split.route(Request::from_parts(head, body), grpc), uplink)
    }

    /// The body of a request, as its handler reads it.
    fn body<B>(&self, body: B, grpc: bool, place: Option<&Place>) -> (axum::body::Body, Option<Uplink>)
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let config = &self.conn.shared.config;
        if body.is_end_stream() {
            // An empty one costs no allocation.
            return (axum::body::Body::empty(), None);
        }
        if !grpc {
            let patient = axum::body::Body::new(Patient::new(body, config.body_idle_timeout));
            return (self.counted(patient, grpc, place), None);
        }
        if config.max_stream_age.is_none() {
            return (self.counted(body, grpc, place), None);
        }
        let (body, uplink) = Uplink::watch(body);
        (self.counted(body, grpc, place), Some(uplink))
    }

    fn counted<B>(&self, body: B, grpc: bool, place: Option<&Place>) -> axum::body::Body
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        match place {
            Some(place) => self.bounded(Upload::new(body, place.clone(), grpc), grpc),
            None => self.bounded(body, grpc),
        }
    }

    fn bounded<B>(&self, body: B, grpc: bool) -> axum::body::Body
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let limit = self.conn.shared.config.max_body_bytes.filter(|_| !grpc);
        let Some(limit) = limit else { return axum::body::Body::new(body) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        axum::body::Body::new(Limited::new(body, limit))
    }

    /// Takes the request in. Health is asked most when there is most to do.
    fn take<B>(
        &self,
        request: &Request<B>,
        context: &Context,
        now: Instant,
    ) -> Result<Option<Held>, Overload> {
        if request.uri().path().starts_with(health_grpc::PREFIX) {
            return Ok(None);
        }
        self.conn.shared.places.take(context.priority, now)
    }

    fn handle<B>(&self, mut request: Request<B>) -> Handling
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let shared = &self.conn.shared;
        self.conn.started.fetch_add(1, Relaxed);
        let now = Instant::now();
        let inbound = Inbound::read(request.headers(), &shared.identity, shared.config.edge);
        let http1 = request.version() < Version::HTTP_2;
        if let Some(mut answer) = self.answer(&request, &inbound) {
            if http1 && self.conn.says_close() {
                answer::say_close(&mut answer);
            }
            return Handling::answered(answer);
        }
        if shared.config.edge && inbound.native {
            inbound::strip(request.headers_mut());
        }
        let grpc = inbound.is_grpc();
        let context = self.context(inbound, now);
        let held = match self.take(&request, &context, now) {
            Ok(held) => held,
            Err(refused) => {
                let mut answer = answer::overloaded(grpc, &refused, &shared.identity);
                if http1 && self.conn.says_close() {
                    answer::say_close(&mut answer);
                }
                return Handling::answered(answer);
            }
        };
        let path = request.uri().path_and_query().cloned();
        let in_flight = InFlight::begin(self.conn.clone(), request.method().clone(), path, now);
        let mut rest = Rest::new(context, in_flight, held);
        let place = rest.held.as_ref().and_then(Held::place);
        let routing = || {
            let (route, uplink) = self.route(request, grpc, place);
            rest.route = Some(route);
            uplink
        };
        match catch_unwind(AssertUnwindSafe(routing)) {
            Ok(uplink) => Handling::running(rest, grpc, http1, uplink),
            Err(panic) => {
                shared.counters.panics.fetch_add(1, Relaxed);
                tracing::error!(
                    path = rest.in_flight.path(),
                    panic = panics::text_of(&*panic),
                    "routing panicked"
                );
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Handling::answered(answer::failed(grpc, status, Code::Internal, "the handler panicked"))
            }
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Dispatch {
    type Response = Response<web::Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        self.serve(request)
    }
}

pin_project! {
    /// The future of one request, with its answer in the caller's words.
    pub(crate) struct Answering {
        #[pin]
        handling: Handling,
        web: Option<Web>,
    }
}

impl Future for Answering {
    type Output = Result<Response<web::Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        this.handling.poll(cx).map_ok(|answer| web::answer(answer, *this.web))
    }
}
