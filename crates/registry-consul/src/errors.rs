//! What the agent and the way to it answer, as the registry contract's errors.

use std::{error, sync::Arc};

use http::StatusCode;
use meshwork_core::{Error, ErrorChain, ErrorKind};

/// The longest piece of an answer that an error shows.
const SHOWN: usize = 200;

/// The error of a request that got no answer: `context` says what was attempted.
pub(crate) fn of_transport(context: String, cause: hyper_util::client::legacy::Error) -> Error {
    Error::new(kind_of(&cause), context).with_source(Reached(Box::new(cause)))
}

/// The error of a body that ended early.
pub(crate) fn of_body(context: String, cause: meshwork_core::BoxError) -> Error {
    Error::unavailable(format!("{context}: reading the answer")).with_source(cause)
}

/// The error of an answer that says no.
pub(crate) fn of_status(context: &str, status: StatusCode, body: &[u8]) -> Error {
    let text = excerpt(body);
    let kind = match status.as_u16() {
        401 | 403 => ErrorKind::Denied,
        // Consul hands on what a server said as a 500.
        500 if text.contains("Permission denied") || text.contains("ACL not found") => ErrorKind::Denied,
        500 if text.contains("Scripts are disabled") => ErrorKind::Unsupported,
        429 | 500..=599 | 408 => ErrorKind::Unavailable,
        _ if text.contains("HTTP request to an HTTPS server") => ErrorKind::Protocol,
        400 => ErrorKind::Invalid,
        // An agent that was restarted without its data: it can be told again.
        404 if text.contains("nknown service") || text.contains("nknown check") => ErrorKind::Unavailable,
        _ => ErrorKind::Protocol,
    };
    let said = if text.is_empty() { status.to_string() } else { format!("{status}: {text}") };
    Error::new(kind, context.to_owned()).with_source(said)
}

/// The error of an answer that could not be understood.
pub(crate) fn of_content(context: &str, cause: serde_json::Error, body: &[u8]) -> Error {
    let text = format!("{context}: answered `{}`", excerpt(body));
    Error::new(ErrorKind::Protocol, text).with_source(cause)
}

/// A second error of the same kind, for another who met the same fault.
pub(crate) fn again(context: impl Into<Box<str>>, cause: &Arc<Error>) -> Error {
    Error::new(cause.kind(), context).with_source(Arc::clone(cause))
}

/// The whole chain of `error` as one line, where it cannot be handed on itself.
pub(crate) fn echo(error: &Error) -> Error {
    Error::new(error.kind(), ErrorChain(error).to_string())
}

fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * SHOWN)]);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(SHOWN).collect()
}

fn kind_of(cause: &(dyn error::Error + 'static)) -> ErrorKind {
    let mut next = Some(cause);
    while let Some(error) = next {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return ErrorKind::Protocol;
        }
        next = error.source();
    }
    match meshwork_tls::tls_of(cause) {
        Some(rustls::Error::AlertReceived(_) | rustls::Error::InvalidCertificate(_)) => ErrorKind::Denied,
        Some(_) => ErrorKind::Protocol,
        None => ErrorKind::Unavailable,
    }
}

/// The cause without the client's own line, which says nothing that the context does not.
#[derive(Debug)]
struct Reached(Box<hyper_util::client::legacy::Error>);

impl std::fmt::Display for Reached {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match error::Error::source(&*self.0) {
            Some(source) => std::fmt::Display::fmt(source, f),
            None => std::fmt::Display::fmt(&self.0, f),
        }
    }
}

impl error::Error for Reached {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        error::Error::source(&*self.0).and_then(error::Error::source)
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn kinds_are_by_status_and_by_what_consul_says() {
        for (status, body, kind) in [
            (403, "Permission denied: token lacks", ErrorKind::Denied),
            (401, "", ErrorKind::Denied),
            (500, "rpc error making call: Permission denied", ErrorKind::Denied),
            (500, "rpc error making call: ACL not found", ErrorKind::Denied),
            (500, "No cluster leader", ErrorKind::Unavailable),
            (500, "Scripts are disabled on this agent", ErrorKind::Unsupported),
            (429, "Your IP is issuing too many concurrent connections", ErrorKind::Unavailable),
            (400, "Client sent an HTTP request to an HTTPS server.", ErrorKind::Protocol),
            (400, "Invalid check", ErrorKind::Invalid),
            (404, "Unknown service ID \"a\".", ErrorKind::Unavailable),
            (404, "<html>", ErrorKind::Protocol),
            (301, "", ErrorKind::Protocol),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(of_status("x", status, body.as_bytes()).kind(), kind, "{status} {body}");
        }
    }

    #[test]
    fn tls_is_found_however_deep_io_errors_hide_it() {
        let tls = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let wrapped = io::Error::other(io::Error::other(tls));
        assert_eq!(kind_of(&wrapped), ErrorKind::Denied);
        let corrupt = io::Error::other(rustls::Error::DecryptError);
        assert_eq!(kind_of(&corrupt), ErrorKind::Protocol);
        assert_eq!(kind_of(&io::Error::other("reset")), ErrorKind::Unavailable);
    }

    #[test]
    fn the_chain_is_one_short_line() {
        let error = of_status("watching `users`", StatusCode::INTERNAL_SERVER_ERROR, b"No cluster\n leader ");
        assert_eq!(
            ErrorChain(&error).to_string(),
            "watching `users`: 500 Internal Server Error: No cluster leader"
        );
        assert!(of_status("x", StatusCode::BAD_REQUEST, &[b'y'; 9999]).to_string().len() < 500);
    }
}
