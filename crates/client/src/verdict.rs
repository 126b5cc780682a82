//! What an answer says of the node that gave it, and whether it may be asked for again elsewhere.
//!
//! A node is judged by what is its own fault: codes that say *this instance cannot*, never those that say
//! *this request is wrong*.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use meshwork_balance::Outcome;
use meshwork_core::headers;

use crate::{failure::Failure, shared::Kind};

const GRPC_STATUS: &str = "grpc-status";
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// gRPC codes by number (`doc/statuscodes.md` of gRPC).
const UNKNOWN: u16 = 2;
const CANCELLED: u16 = 1;
const DEADLINE_EXCEEDED: u16 = 4;
const RESOURCE_EXHAUSTED: u16 = 8;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;
const DATA_LOSS: u16 = 15;
/// The last code there is: UNAUTHENTICATED.
const LAST: u16 = 16;

/// What the head of an answer says.
pub(crate) enum Head {
    /// No handler saw the request.
    Refused(Failure, Why),
    /// An answer; `verdict` is known now or comes with the trailers.
    Answer { verdict: Option<Outcome>, unavailable: Option<Unavailable> },
}

/// Why no handler saw a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The process is going away.
    Draining,
    /// The process is somebody else.
    Misdirected,
    /// It has no capacity.
    Overloaded,
}

/// An answer by which the node says that it cannot serve now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unavailable {
    /// `503`, `grpc-status 14`.
    pub(crate) code: String,
    pub(crate) pushback: Pushback,
}

/// What a server says of another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushback {
    /// Nothing.
    Silent,
    /// Not before this.
    After(Duration),
    /// Never.
    Never,
}

/// Reads the head of an answer, in one pass over its headers.
pub(crate) fn of_head<B>(kind: Kind, answer: &Response<B>) -> Head {
    let (mut refused, mut code) = (None, None);
    for (name, value) in answer.headers() {
        match name.as_str() {
            headers::REFUSED => refused = Some(value),
            GRPC_STATUS => code = Some(code_of(value)),
            _ => {}
        }
    }
    if let Some(word) = refused {
        return of_refusal(word, answer.headers());
    }
    let status = answer.status();
    if kind == Kind::Grpc && status == StatusCode::OK {
        let unavailable = (code == Some(UNAVAILABLE))
            .then(|| Unavailable { code: "grpc-status 14".to_owned(), pushback: pushback(answer.headers()) });
        return Head::Answer { verdict: code.map(of_code), unavailable };
    }
    let unavailable = matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    );
    let unavailable = unavailable
        .then(|| Unavailable { code: status.as_str().to_owned(), pushback: pushback(answer.headers()) });
    Head::Answer { verdict: Some(of_status(status)), unavailable }
}

fn of_refusal(word: &HeaderValue, answer: &HeaderMap) -> Head {
    match word.to_str().unwrap_or("unreadable") {
        word @ headers::REFUSED_DRAINING => Head::Refused(Failure::refused(word), Why::Draining),
        word @ headers::REFUSED_MISDIRECTED => Head::Refused(Failure::refused(word), Why::Misdirected),
        _ => {
            let pause = match pushback(answer) {
                Pushback::After(pause) => Some(pause),
                Pushback::Silent | Pushback::Never => None,
            };
            Head::Refused(Failure::overloaded(pause), Why::Overloaded)
        }
    }
}

/// Reads the trailers of a gRPC answer; `None` when they tell no status.
pub(crate) fn of_trailers(trailers: &HeaderMap) -> Option<Outcome> {
    grpc_status(trailers).map(of_code)
}

fn grpc_status(of: &HeaderMap) -> Option<u16> {
    of.iter().find(|(name, _)| name.as_str() == GRPC_STATUS).map(|(_, value)| code_of(value))
}

fn code_of(value: &HeaderValue) -> u16 {
    value.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN)
}

fn of_code(code: u16) -> Outcome {
    match code {
        UNKNOWN | DEADLINE_EXCEEDED | INTERNAL | UNAVAILABLE | DATA_LOSS => Outcome::Failure,
        // Said of the caller or of a limit: nothing is learned of the node's speed either.
        CANCELLED | RESOURCE_EXHAUSTED => Outcome::Neutral,
        // No code at all: callers read it as UNKNOWN.
        code if code > LAST => Outcome::Failure,
        _ => Outcome::Success,
    }
}

fn of_status(status: StatusCode) -> Outcome {
    match status {
        StatusCode::INTERNAL_SERVER_ERROR
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => Outcome::Failure,
        StatusCode::TOO_MANY_REQUESTS => Outcome::Neutral,
        // Out of range counts as 5xx (RFC 9110, section 15).
        status if status.as_u16() >= 600 => Outcome::Failure,
        _ => Outcome::Success,
    }
}

fn pushback(of: &HeaderMap) -> Pushback {
    if let Some(value) = of.get(PUSHBACK) {
        // gRFC A6: a negative or unreadable value means not to try again.
        let millis = value.to_str().ok().and_then(|millis| millis.parse().ok());
        return millis.map_or(Pushback::Never, |millis| Pushback::After(Duration::from_millis(millis)));
    }
    let seconds = of.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    seconds.map_or(Pushback::Silent, |seconds| Pushback::After(Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> Response<()> {
        let mut answer = Response::builder().status(status);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        answer.body(()).unwrap()
    }

    fn verdict(kind: Kind, answer: &Response<()>) -> (Option<Outcome>, Option<Unavailable>) {
        match of_head(kind, answer) {
            Head::Answer { verdict, unavailable } => (verdict, unavailable),
            Head::Refused(failure, _) => panic!("{failure:?}"),
        }
    }

    #[test]
    fn the_nodes_fault_is_told_from_the_callers() {
        for (code, expected) in [
            ("0", Outcome::Success),
            ("3", Outcome::Success),
            ("5", Outcome::Success),
            ("8", Outcome::Neutral),
            ("13", Outcome::Failure),
            ("14", Outcome::Failure),
            ("17", Outcome::Failure),
            ("99999999", Outcome::Failure),
            ("-1", Outcome::Failure),
            ("nonsense", Outcome::Failure),
        ] {
            assert_eq!(
                verdict(Kind::Grpc, &answer(200, &[("grpc-status", code)])).0,
                Some(expected),
                "{code}"
            );
        }
        assert_eq!(verdict(Kind::Grpc, &answer(200, &[])), (None, None), "the trailers will tell");
        for (status, expected) in [
            (200, Outcome::Success),
            (404, Outcome::Success),
            (429, Outcome::Neutral),
            (500, Outcome::Failure),
            (503, Outcome::Failure),
            (999, Outcome::Failure),
        ] {
            assert_eq!(verdict(Kind::Http, &answer(status, &[])).0, Some(expected), "{status}");
        }
        assert_eq!(of_trailers(&HeaderMap::new()), None);
    }

    #[test]
    fn pushback_is_read_in_both_protocols() {
        let said = |kind, status, headers: &[(&'static str, &'static str)]| {
            verdict(kind, &answer(status, headers)).1.map(|unavailable| unavailable.pushback)
        };
        let grpc =
            |millis| said(Kind::Grpc, 200, &[("grpc-status", "14"), ("grpc-retry-pushback-ms", millis)]);
        assert_eq!(grpc("25"), Some(Pushback::After(Duration::from_millis(25))));
        assert_eq!(grpc("-1"), Some(Pushback::Never));
        assert_eq!(
            said(Kind::Http, 503, &[("retry-after", "2")]),
            Some(Pushback::After(Duration::from_secs(2)))
        );
        assert_eq!(said(Kind::Http, 503, &[]), Some(Pushback::Silent));
        assert_eq!(said(Kind::Http, 500, &[]), None, "a handler saw it and failed");
    }
}
