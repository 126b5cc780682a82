//! The header names that Meshwork processes exchange, and the confirmation of a connection.
//!
//! A client confirms a new connection to a native instance with `HEAD` [`CONFIRM_PATH`] and [`TO`]; the
//! server answers 204 with [`IS`]. Every request to a native instance may carry [`TO`]; a server that is
//! somebody else refuses it with [`REFUSED`]`: misdirected`.

/// Whom a request is meant for: `<service>/<id>`.
pub const TO: &str = "meshwork-to";
/// Who answers: `<service>/<id>`, one header for each service the process serves.
pub const IS: &str = "meshwork-is";
/// Why a request was surely not handled: one of the `REFUSED_*` words.
pub const REFUSED: &str = "meshwork-refused";
/// The process is going away; send it elsewhere.
pub const REFUSED_DRAINING: &str = "draining";
/// The process is not the instance named in [`TO`].
pub const REFUSED_MISDIRECTED: &str = "misdirected";
/// The process has no capacity; sending it elsewhere is a retry.
pub const REFUSED_OVERLOADED: &str = "overloaded";
/// Beside UNAVAILABLE or 503, in the head or the trailers: why the server ended a call that its handler had not ended, one
/// of the `ENDED_*` words. A handler may have seen the request, and it says nothing of how well the process works.
pub const ENDED: &str = "meshwork-ended";
/// The stream has reached its age; go on with it anywhere.
pub const ENDED_AGE: &str = "age";
/// The process is going away; go on with it elsewhere.
pub const ENDED_DRAINING: &str = "draining";
/// `critical`, `normal` or `sheddable`; see [`Priority`](crate::Priority).
pub const PRIORITY: &str = "meshwork-priority";
/// Which attempt of the caller this is, from 0.
pub const ATTEMPT: &str = "meshwork-attempt";
/// The traffic lane.
pub const LANE: &str = "meshwork-lane";
/// How long the caller waits, in the format of `grpc-timeout`; for requests that are not gRPC.
pub const TIMEOUT: &str = "meshwork-timeout";
/// The gRPC spelling of the same.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// The path of the empty exchange that confirms a connection.
pub const CONFIRM_PATH: &str = "/.meshwork/is";

/// Whether a `content-type` is gRPC: `application/grpc` or `application/grpc+…`, never grpc-web.
///
/// ```
/// # use meshwork_core::headers::is_grpc;
/// assert!(is_grpc("application/grpc") && is_grpc("application/grpc+proto"));
/// assert!(!is_grpc("application/grpc-web") && !is_grpc("application/json"));
/// ```
pub fn is_grpc(content_type: &str) -> bool {
    match content_type.strip_prefix("application/grpc") {
        Some(rest) => rest.is_empty() || rest.starts_with('+') || rest.starts_with(';'),
        None => false,
    }
}
