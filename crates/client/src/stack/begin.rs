//! What of a call needs no waiting: context, deadline, rules, and reading its body ahead.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request};
use meshwork_core::{BoxError, Context, Delivered, Priority, headers, timeout};
use meshwork_resilience::{
    deadline::{self, Asked, Deadline},
    is_safe,
    retry::{Allowed, Recovery},
};
use tokio::time::Instant;

use super::Call;
use crate::{
    CallError, CallErrorKind, CallOptions, names,
    options::hash_of,
    shared::{Kind, Shared},
    upload::Upload,
};

/// What a call takes over from the call being served.
#[derive(Default)]
pub(crate) struct Inherited {
    deadline: Option<Instant>,
    trace: Option<Arc<str>>,
    priority: Priority,
    lane: Option<Arc<str>>,
    attempt: u32,
}

impl Inherited {
    /// From the running task's context.
    pub(crate) fn current() -> Self {
        Context::with_current(|context| {
            context.map_or_else(Self::default, |context| Self {
                deadline: context.deadline,
                trace: context.trace.clone(),
                priority: context.priority,
                lane: context.lane.clone(),
                attempt: context.attempt,
            })
        })
    }
}

/// What the headers of a request say of the call.
struct Said {
    kind: Kind,
    timeout: Option<Duration>,
    traced: bool,
    upgrade: bool,
}

/// Begins a call: all that needs no waiting.
///
/// # Errors
/// [`Invalid`](CallErrorKind::Invalid) when it cannot be made as it was asked,
/// [`Unsupported`](CallErrorKind::Unsupported) when it asks for an upgrade,
/// [`Deadline`](CallErrorKind::Deadline) when it has no time left.
pub(crate) fn begin<B>(
    shared: Arc<Shared>,
    options: Arc<CallOptions>,
    inherited: &Inherited,
    request: Request<B>,
) -> Result<Box<Call>, CallError>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if let Some(fault) = options.fault() {
        let error = CallError::new(CallErrorKind::Invalid, "pinning the call to an instance");
        return Err(error.with_source(fault.clone()).with_service(&shared.service));
    }
    let begun = Instant::now();
    let (mut head, body) = request.into_parts();
    let said = Said::by(&head.headers);
    if said.upgrade || head.method == Method::CONNECT {
        let text = "upgrades (WebSocket, CONNECT) need a connection of their own: open one to an address of the channel's nodes";
        return Err(CallError::new(CallErrorKind::Unsupported, text).with_service(&shared.service));
    }
    shared.want(said.kind);

    // 1. context and deadline
    let rule = shared.rules.load_full().of(head.uri.path());
    let asked = Asked { inherited: inherited.deadline, header: said.timeout, option: options.timeout };
    let deadline = Deadline::new(begun, &asked, rule.limits());
    if let Some(bound) = deadline.waiting().filter(|bound| bound.at() <= begun) {
        let passed = bound.passed("time left", rule.limits());
        return Err(CallError::from(passed).with_service(&shared.service));
    }
    let idempotent = options.idempotent.unwrap_or_else(|| {
        let is_promised = said.kind == Kind::Http && is_safe(&head.method);
        rule.idempotent || is_promised
    });

    // 2. reading the body ahead
    let upload = Upload::read_ahead(body).map_err(|error| {
        CallError::new(CallErrorKind::Invalid, "reading the body of the request")
            .with_source(error)
            .with_service(&shared.service)
    })?;
    // Written before the headers are copied for an attempt: a copy has no room for more.
    // The client's own limit stays here: it ends at the head, and the peer would cut the body by it.
    if let Some(bound) = deadline.body() {
        let is_grpc = said.kind == Kind::Grpc;
        deadline::write_first(&mut head.headers, is_grpc, bound, begun, rule.limits());
    }
    let lane = options.lane.as_ref().or(inherited.lane.as_ref());
    let subset = rule.asks(lane.map(|lane| &**lane));
    let keyed = || Some(hash_of(head.headers.get(rule.hash_header.as_ref()?)?.as_bytes()));
    let hash = options.hash.or_else(keyed);
    write_context(&mut head.headers, &said, &options, inherited);
    let allowed = Allowed {
        idempotent,
        kept: upload.is_kept(),
        nested: inherited.attempt > 0,
        attempts: rule.attempts,
    };
    // Boxed, so that it is not moved about with the future.
    Ok(Box::new(Call {
        shared,
        options,
        rule,
        kind: said.kind,
        hash,
        subset,
        head,
        upload,
        deadline,
        allowed,
        begun,
        attempt: inherited.attempt,
        avoid: Vec::new(),
        failed: Vec::new(),
        attempts: Vec::new(),
        delivered: Delivered::No,
        recovery: Recovery::default(),
    }))
}

impl Said {
    /// In one pass.
    fn by(request: &HeaderMap) -> Self {
        let mut said = Self { kind: Kind::Http, timeout: None, traced: false, upgrade: false };
        let timeout = |value: &HeaderValue| value.to_str().ok().and_then(timeout::parse);
        for (name, value) in request {
            match name.as_str() {
                "content-type" if value.to_str().is_ok_and(headers::is_grpc) => said.kind = Kind::Grpc,
                headers::GRPC_TIMEOUT | headers::TIMEOUT => said.timeout = timeout(value).or(said.timeout),
                headers::TRACEPARENT => said.traced = true,
                "upgrade" => said.upgrade = true,
                _ => {}
            }
        }
        said
    }
}

/// What travels with every attempt.
fn write_context(to: &mut HeaderMap, said: &Said, options: &CallOptions, inherited: &Inherited) {
    let priority = options.priority.unwrap_or(inherited.priority);
    if priority != Priority::Normal {
        to.insert(names::PRIORITY.clone(), HeaderValue::from_static(priority.as_str()));
    }
    if let Some(lane) = options.lane.as_ref().or(inherited.lane.as_ref())
        && let Ok(lane) = HeaderValue::from_str(lane)
    {
        to.insert(names::LANE.clone(), lane);
    }
    if let Some(trace) = inherited.trace.as_ref().filter(|_| !said.traced)
        && let Ok(trace) = HeaderValue::from_str(trace)
    {
        to.insert(names::TRACEPARENT.clone(), trace);
    }
}
