//! What a failed attempt means: may a handler have seen it, and is its connection still good.
//!
//! The table behind it was measured against scripted HTTP/2 peers; the tests of this crate repeat it.

use std::{borrow::Cow, error::Error, io, time::Duration};

use meshwork_core::{BoxError, Delivered};
use meshwork_resilience::{
    Pushback,
    retry::{Reroute, Trouble},
};
use tonic::Code;

use crate::{AttemptPhase, CallError, CallErrorKind};

/// Why one attempt failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: CallErrorKind,
    pub(crate) phase: AttemptPhase,
    pub(crate) delivered: Delivered,
    /// What happened, in a few words.
    pub(crate) code: Cow<'static, str>,
    pub(crate) connection: After,
    /// How often a call may be re-routed for this.
    pub(crate) reroute: Reroute,
    /// What the peer said of another attempt.
    pub(crate) pushback: Pushback,
    grpc: Option<Code>,
    source: Option<BoxError>,
}

/// What the failure says of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It can take other calls.
    Good,
    /// It takes no more calls.
    Closing,
}

impl Failure {
    /// What it means for another attempt.
    pub(crate) fn trouble(&self) -> Trouble {
        Trouble { delivered: self.delivered, reroute: self.reroute, pushback: self.pushback }
    }

    /// No connection could be had.
    pub(crate) fn connect(error: CallError) -> Self {
        Self {
            kind: error.kind(),
            phase: AttemptPhase::Connect,
            delivered: Delivered::No,
            code: code_of_chain(&error),
            connection: After::Closing,
            reroute: Reroute::Free,
            pushback: Pushback::Silent,
            grpc: None,
            source: Some(error.into()),
        }
    }

    /// The peer said that no handler saw the request.
    pub(crate) fn refused(word: &str) -> Self {
        Self { reroute: Reroute::Free, ..Self::surely_not(format!("refused: {word}")) }
    }

    /// The peer has no capacity.
    pub(crate) fn overloaded(pushback: Pushback) -> Self {
        Self {
            kind: CallErrorKind::Overloaded,
            connection: After::Good,
            reroute: Reroute::Never,
            pushback,
            ..Self::surely_not("refused: overloaded")
        }
    }

    /// The body is a stream of which a part is gone with an earlier attempt.
    pub(crate) fn spent() -> Self {
        let code = "the request is a stream and partly gone with an earlier attempt";
        Self { connection: After::Good, reroute: Reroute::Never, ..Self::surely_not(code) }
    }

    /// No answer within the attempt's time.
    pub(crate) fn attempt_timeout(limit: Duration) -> Self {
        Self {
            kind: CallErrorKind::Deadline,
            delivered: Delivered::Maybe,
            connection: After::Good,
            reroute: Reroute::Never,
            ..Self::surely_not(format!("no answer within {limit:?}"))
        }
    }

    /// The peer's HTTP/2 connection, or ours, ended the attempt; `handed_back`: the request never left.
    pub(crate) fn http2(error: hyper::Error, handed_back: bool) -> Self {
        let mut failure = Self::maybe("connection failed");
        if handed_back {
            failure = Self { reroute: Reroute::Free, ..Self::surely_not("connection closed before sending") };
        } else if error.is_timeout() {
            failure.code = "ping not answered".into();
        } else if let Some(h2) = h2_of(&error) {
            failure = of_h2(h2);
        } else if error.is_user() {
            failure.code = "connection ended while waiting for a stream".into();
        } else if let Some(code) = code_of_io(&error) {
            failure.code = code;
        }
        failure.source = Some(error.into());
        failure
    }

    /// An HTTP/1.1 connection ended the attempt. `reused`: it had served another call before.
    pub(crate) fn http1(error: hyper::Error, handed_back: bool, reused: bool) -> Self {
        let mut failure = Self::maybe("connection failed");
        if handed_back {
            failure = Self { reroute: Reroute::Free, ..Self::surely_not("connection closed before sending") };
        } else if error.is_incomplete_message() {
            failure.code = "closed before an answer".into();
        } else if let Some(code) = code_of_io(&error) {
            failure.code = code;
        } else if error.is_parse() {
            failure.code = "not an HTTP/1.1 answer".into();
        }
        if reused && failure.delivered == Delivered::Maybe && !error.is_parse() {
            failure.reroute = Reroute::IfIdempotent;
        }
        failure.source = Some(error.into());
        failure
    }

    /// The body of the answer broke.
    pub(crate) fn body(error: hyper::Error) -> Self {
        let mut failure = match h2_of(&error) {
            Some(h2) => of_h2(h2),
            None => Self::maybe(code_of_io(&error).unwrap_or("body cut short".into())),
        };
        failure.phase = AttemptPhase::Body;
        failure.delivered = Delivered::Maybe;
        failure.reroute = Reroute::Never;
        failure.source = Some(error.into());
        failure
    }

    /// The peer speaks another protocol from here on, though nobody asked it to.
    pub(crate) fn switched() -> Self {
        Self::maybe("it switched protocols unasked")
    }

    /// A gRPC answer that tells no status: no caller can know what happened.
    pub(crate) fn without_status() -> Self {
        Self {
            phase: AttemptPhase::Body,
            connection: After::Good,
            grpc: Some(Code::Internal),
            ..Self::maybe("it tells no grpc-status")
        }
    }

    /// As an error of a call.
    pub(crate) fn into_error(self) -> CallError {
        let text = match self.kind {
            CallErrorKind::Connect => Cow::Borrowed("no connection"),
            CallErrorKind::Overloaded => Cow::Borrowed("refused for overload"),
            CallErrorKind::Deadline => self.code,
            _ if self.phase == AttemptPhase::Body => format!("the answer broke off: {}", self.code).into(),
            _ => format!("no answer: {}", self.code).into(),
        };
        let mut error = CallError::new(self.kind, text)
            .with_delivered(self.delivered)
            .with_pushback(self.pushback.asked());
        if let Some(code) = self.grpc {
            error = error.with_code(code);
        }
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }

    fn surely_not(code: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind: CallErrorKind::Transport,
            phase: AttemptPhase::Exchange,
            delivered: Delivered::No,
            code: code.into(),
            connection: After::Closing,
            reroute: Reroute::Free,
            pushback: Pushback::Silent,
            grpc: None,
            source: None,
        }
    }

    fn maybe(code: impl Into<Cow<'static, str>>) -> Self {
        Self { delivered: Delivered::Maybe, reroute: Reroute::Never, ..Self::surely_not(code) }
    }
}

fn of_h2(error: &h2::Error) -> Failure {
    let reason = error.reason();
    let words = reason.map_or(Cow::Borrowed("unknown"), |reason| format!("{reason:?}").into());
    if error.is_go_away() && error.is_remote() {
        // The library gives this only to streams above the last id that the peer will answer.
        return Failure::surely_not(format!("goaway {words}"));
    }
    if error.is_reset() && error.is_remote() {
        let refused = reason == Some(h2::Reason::REFUSED_STREAM);
        let failure = if refused {
            Failure { reroute: Reroute::Once, ..Failure::surely_not("stream refused") }
        } else {
            Failure::maybe(format!("stream reset {words}"))
        };
        return Failure { connection: After::Good, grpc: reason.map(code_of_reset), ..failure };
    }
    if error.is_io() {
        let code = error.get_io().map_or("connection lost".into(), words_of);
        return Failure::maybe(code);
    }
    let connection = if error.is_go_away() { After::Closing } else { After::Good };
    let failure = Failure::maybe(format!("protocol error {words}"));
    Failure { connection, grpc: Some(Code::Internal), ..failure }
}

/// The code that the gRPC specification gives to a stream reset with `reason`.
fn code_of_reset(reason: h2::Reason) -> Code {
    match reason {
        h2::Reason::REFUSED_STREAM => Code::Unavailable,
        h2::Reason::CANCEL => Code::Cancelled,
        h2::Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        h2::Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

/// Whether the peer ended a connection because it was asked too much of: ENHANCE_YOUR_CALM.
pub(crate) fn says_calm_down(error: &hyper::Error) -> bool {
    h2_of(error).is_some_and(|h2| h2.is_remote() && h2.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

fn h2_of(error: &hyper::Error) -> Option<&h2::Error> {
    error.source()?.downcast_ref()
}

fn code_of_io(error: &(dyn Error + 'static)) -> Option<Cow<'static, str>> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(words_of(io));
        }
        next = error.source();
    }
    None
}

fn code_of_chain(error: &CallError) -> Cow<'static, str> {
    code_of_io(error).unwrap_or_else(|| error.to_string().into())
}

fn words_of(error: &io::Error) -> Cow<'static, str> {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused".into(),
        io::ErrorKind::ConnectionReset => "reset by peer".into(),
        io::ErrorKind::BrokenPipe => "connection lost".into(),
        io::ErrorKind::TimedOut => "timed out".into(),
        // TLS says what to do.
        other => error.get_ref().map_or_else(|| other.to_string(), ToString::to_string).into(),
    }
}
