//! Answers that the server itself gives, in HTTP's and in gRPC's words.

use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER},
};
use meshwork_core::{Verdict, headers};
use meshwork_resilience::{Overload, PUSHBACK};
use tonic::Code;

use crate::{Identity, body::Body, status};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A request refused before any handler saw it.
pub(crate) fn refused(grpc: bool, reason: &'static str, identity: &Identity) -> Response<Body> {
    let (status, text) = match reason {
        headers::REFUSED_MISDIRECTED => (StatusCode::MISDIRECTED_REQUEST, "meant for another instance"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the server is draining"),
    };
    let mut answer = failed(grpc, status, Code::Unavailable, text);
    answer.headers_mut().insert(name(headers::REFUSED), HeaderValue::from_static(reason));
    add_identity(answer.headers_mut(), identity);
    answer
}

/// A request refused because too many are inside. Trying it again is a retry, elsewhere or after a while.
pub(crate) fn overloaded(grpc: bool, refused: &Overload, identity: &Identity) -> Response<Body> {
    let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, Code::ResourceExhausted);
    let mut answer = failed(grpc, status, code, "the server has too much to do");
    let map = answer.headers_mut();
    map.insert(name(headers::REFUSED), HeaderValue::from_static(headers::REFUSED_OVERLOADED));
    let pause = refused.pushback().unwrap_or_default();
    map.insert(PUSHBACK, HeaderValue::from(pause.as_millis() as u64));
    if !grpc {
        // Whole seconds only.
        map.insert(RETRY_AFTER, HeaderValue::from(pause.as_secs() + 1));
    }
    add_identity(map, identity);
    answer
}

/// A request that ended without its handler's answer.
pub(crate) fn failed(grpc: bool, http: StatusCode, code: Code, text: &'static str) -> Response<Body> {
    if grpc {
        let mut answer = Response::new(Body::empty());
        answer.headers_mut().insert(CONTENT_TYPE, GRPC);
        status::write(answer.headers_mut(), code, text);
        answer
    } else {
        plain(http, TEXT, text)
    }
}

/// Who answers.
pub(crate) fn confirmed(identity: &Identity) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    add_identity(answer.headers_mut(), identity);
    answer
}

/// JSON with this status.
pub(crate) fn json(status: StatusCode, body: String) -> Response<Body> {
    plain(status, JSON, body)
}

/// Nothing is found there.
pub(crate) fn not_found() -> Response<Body> {
    plain(StatusCode::NOT_FOUND, TEXT, "not found")
}

/// Tells an HTTP/1 client to go on elsewhere.
pub(crate) fn say_close<B>(answer: &mut Response<B>) {
    // The connection of an upgrade is named there already.
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

fn plain(status: StatusCode, content_type: HeaderValue, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut answer = Response::new(Body::full(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

fn add_identity(map: &mut HeaderMap, identity: &Identity) {
    for value in identity.values().iter() {
        map.append(name(headers::IS), value.clone());
    }
}

fn name(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}
