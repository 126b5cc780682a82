//! The words in which gRPC says how a call ended.

use http::{HeaderMap, HeaderName, HeaderValue};
use meshwork_core::headers;
use tonic::Code;

/// Writes a status into the head or the trailers of an answer. Texts of our own need no percent-encoding.
pub(crate) fn write(map: &mut HeaderMap, code: Code, text: &'static str) {
    map.insert(HeaderName::from_static("grpc-status"), HeaderValue::from(code as i32));
    map.insert(HeaderName::from_static("grpc-message"), HeaderValue::from_static(text));
}

/// The end of a stream whose answer has begun.
pub(crate) fn trailers(code: Code, text: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    write(&mut trailers, code, text);
    trailers
}

/// Says beside a status that the server ended the call, for this reason, so that callers do not take it for a
/// failure of the instance.
pub(crate) fn ended(map: &mut HeaderMap, why: &'static str) {
    map.insert(HeaderName::from_static(headers::ENDED), HeaderValue::from_static(why));
}

/// Whether the status in a head or in trailers is OK; `None` without one.
pub(crate) fn is_ok(map: &HeaderMap) -> Option<bool> {
    Some(map.get("grpc-status")?.as_bytes() == b"0")
}
