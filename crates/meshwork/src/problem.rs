//! The error type of an axum handler: an RFC 9457 problem.

use std::fmt;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use meshwork_client::CallError;
use meshwork_core::{BoxError, ErrorChain};
use tonic::Code;

/// What a handler answers when it fails: `application/problem+json` (RFC 9457).
///
/// Any error turns into one by `?`. A `tonic::Status` and a `CallError` keep their meaning as an HTTP
/// status; every other error is a 500. The text of a 5xx is logged and not told to the caller.
///
/// ```
/// use meshwork::Problem;
/// let answer = Problem::new(404, "no such order").detail("order 7");
/// assert_eq!(answer.status(), 404);
/// ```
pub struct Problem {
    status: StatusCode,
    title: Box<str>,
    detail: Option<Box<str>>,
    cause: Option<BoxError>,
}

impl Problem {
    /// A problem with this HTTP status (400 to 599; anything else becomes 500) and a short title.
    pub fn new(status: u16, title: impl Into<Box<str>>) -> Self {
        let status = StatusCode::from_u16(status)
            .ok()
            .filter(|status| status.is_client_error() || status.is_server_error())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, title: title.into(), detail: None, cause: None }
    }

    /// Adds what the caller may know of this very case.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<Box<str>>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status.as_u16()
    }

    fn of(cause: BoxError) -> Self {
        // The first source of a failed call is the status that a tonic caller would see.
        let status = cause
            .downcast_ref::<tonic::Status>()
            .or_else(|| cause.source().and_then(|source| source.downcast_ref::<tonic::Status>()));
        let http = status.map_or(StatusCode::INTERNAL_SERVER_ERROR, |status| http_status(status.code()));
        // What is the caller's own fault is told; what went wrong behind us is not.
        let told =
            status.map(tonic::Status::message).filter(|text| http.is_client_error() && !text.is_empty());
        let detail = told.map(Into::into);
        Self {
            status: http,
            title: http.canonical_reason().unwrap_or("Error").into(),
            detail,
            cause: Some(cause),
        }
    }

    /// The cause on one line, without what `tonic::Status` repeats of its own source.
    fn log_line(cause: &BoxError) -> String {
        if let Some(call) = CallError::of(&**cause) {
            return call.to_string();
        }
        match cause.downcast_ref::<tonic::Status>() {
            Some(status) => format!("{:?}: {}", status.code(), status.message()),
            None => ErrorChain(&**cause).to_string(),
        }
    }
}

/// The mapping of gRPC codes that grpc-gateway made common.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl<E: Into<BoxError>> From<E> for Problem {
    fn from(cause: E) -> Self {
        Self::of(cause.into())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status.as_u16();
        if let Some(cause) = &self.cause {
            let error = Self::log_line(cause);
            if self.status.is_server_error() {
                tracing::warn!(status, error, "request failed");
            } else {
                tracing::debug!(status, error, "request failed");
            }
        }
        let mut body = serde_json::json!({ "type": "about:blank", "title": self.title, "status": status });
        if let Some(detail) = &self.detail {
            body["detail"] = serde_json::Value::from(&**detail);
        }
        let mut response = Response::new(Body::from(body.to_string()));
        *response.status_mut() = self.status;
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}

impl fmt::Debug for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Problem")
            .field("status", &self.status)
            .field("title", &self.title)
            .field("detail", &self.detail)
            .field("cause", &self.cause.as_deref().map(|cause| ErrorChain(cause).to_string()))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_keeps_its_meaning_and_other_errors_stay_private() {
        let missing = Problem::from(tonic::Status::not_found("order 7"));
        assert_eq!((missing.status(), missing.detail.as_deref()), (404, Some("order 7")));
        let private = Problem::from(std::io::Error::other("password is hunter2"));
        assert_eq!((private.status(), private.detail), (500, None));
        let behind = Problem::from(tonic::Status::unavailable("10.0.0.7 is down"));
        assert_eq!((behind.status(), behind.detail), (503, None));
    }

    #[test]
    fn a_status_that_is_no_failure_becomes_500() {
        assert_eq!(Problem::new(200, "fine").status(), 500);
        assert_eq!(Problem::new(99, "what").status(), 500);
    }
}
