//! What an answer says of the node that gave it, and whether it may be asked for again elsewhere.
//!
//! A node is judged by what is its own fault: codes that say *this instance cannot*, never those that say
//! *this request is wrong*.

use http::{HeaderMap, Response, StatusCode};
use meshwork_balance::Outcome;
use meshwork_core::headers;
use meshwork_resilience::retry::{Said, Trouble};

use crate::{failure::Failure, shared::Kind};

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
#[derive(Clone, Debug)]
pub(crate) struct Unavailable {
    /// `503`, `grpc-status 14`.
    pub(crate) code: String,
    pub(crate) trouble: Trouble,
}

/// Reads the head of an answer, in one pass over its headers.
pub(crate) fn of_head<B>(kind: Kind, answer: &Response<B>) -> Head {
    let (is_grpc, status) = (kind == Kind::Grpc, answer.status());
    let (said, code) = Said::of_head(is_grpc, status, answer.headers());
    match said {
        Said::Draining => return Head::Refused(Failure::refused(headers::REFUSED_DRAINING), Why::Draining),
        Said::Misdirected => {
            return Head::Refused(Failure::refused(headers::REFUSED_MISDIRECTED), Why::Misdirected);
        }
        Said::Overloaded(pushback) => return Head::Refused(Failure::overloaded(pushback), Why::Overloaded),
        _ => {}
    }
    let of_grpc = is_grpc && status == StatusCode::OK;
    let unavailable = said.trouble().map(|trouble| {
        let code = if of_grpc { "grpc-status 14" } else { status.as_str() }.to_owned();
        Unavailable { code, trouble }
    });
    let verdict = if of_grpc { code.map(of_code) } else { Some(of_status(status)) };
    let verdict = match unavailable {
        Some(_) if is_ended(answer.headers()) => Some(Outcome::Neutral),
        _ => verdict,
    };
    Head::Answer { verdict, unavailable }
}

/// Reads the trailers of a gRPC answer; `None` when they tell no status.
pub(crate) fn of_trailers(trailers: &HeaderMap) -> Option<Outcome> {
    // An answer without a body has them in its head.
    Said::of_head(true, StatusCode::OK, trailers).1.map(|code| match code {
        UNAVAILABLE if is_ended(trailers) => Outcome::Neutral,
        code => of_code(code),
    })
}

/// Whether the server ended the call on purpose: a stream that has reached its age, a process that goes away. Neither is a
/// fault, and who goes on with the stream may find the same node.
fn is_ended(fields: &HeaderMap) -> bool {
    fields.contains_key(headers::ENDED)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshwork_resilience::Pushback;

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
        assert_eq!(verdict(Kind::Grpc, &answer(200, &[])).0, None, "the trailers will tell");
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
    fn a_stream_that_its_server_ended_is_no_fault_of_the_node() {
        let ended = |code| {
            let fields = [("grpc-status", code), ("meshwork-ended", "age")];
            let trailers = answer(200, &fields).headers().clone();
            (of_trailers(&trailers), verdict(Kind::Grpc, &answer(200, &fields)).0)
        };
        assert_eq!(ended("14"), (Some(Outcome::Neutral), Some(Outcome::Neutral)));
        // Only what says that the instance cannot go on: a handler that failed did so whatever else is said.
        assert_eq!(ended("13"), (Some(Outcome::Failure), Some(Outcome::Failure)));
        let (judged, unavailable) = verdict(Kind::Http, &answer(503, &[("meshwork-ended", "draining")]));
        assert_eq!(judged, Some(Outcome::Neutral));
        assert!(unavailable.is_some(), "it may be tried again elsewhere as any other");
        let (internal, _) = verdict(Kind::Http, &answer(500, &[("meshwork-ended", "age")]));
        assert_eq!(internal, Some(Outcome::Failure));
    }

    #[test]
    fn a_refusal_for_overload_says_whether_to_try_again() {
        let refused = |headers: &[(&'static str, &'static str)]| {
            let mut all = vec![("meshwork-refused", "overloaded")];
            all.extend(headers);
            match of_head(Kind::Http, &answer(503, &all)) {
                Head::Refused(failure, Why::Overloaded) => failure.trouble().pushback,
                _ => panic!("{headers:?}"),
            }
        };
        assert_eq!(refused(&[]), Pushback::Silent);
        assert_eq!(refused(&[("retry-after", "1")]), Pushback::After(Duration::from_secs(1)));
        assert_eq!(refused(&[("grpc-retry-pushback-ms", "-1")]), Pushback::Never);
        let past = ("retry-after", "Fri, 20 Nov 2020 12:00:00 GMT");
        assert_eq!(refused(&[past]), Pushback::After(Duration::ZERO), "a date is read");
    }

    #[test]
    fn pushback_is_read_in_both_protocols() {
        let said = |kind, status, headers: &[(&'static str, &'static str)]| {
            verdict(kind, &answer(status, headers)).1.map(|unavailable| unavailable.trouble.pushback)
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
