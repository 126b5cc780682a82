//! Why a call failed: one error type, with the list of attempts behind it.

use std::{borrow::Cow, error, fmt, sync::Arc, time::Duration};

use meshwork_core::{BoxError, Delivered, InstanceId, ServiceName, Verdict};

use crate::Funnel;

/// Why a call failed, in the one dimension that callers branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallErrorKind {
    /// The registry knows no instance that could take the call, or not the one it is pinned to.
    NoInstance,
    /// The registry never answered, so nothing is known of the service.
    RegistryUnavailable,
    /// Every connected instance is ejected for failing.
    Ejected,
    /// No capacity: this client's [limit](crate::LimitConfig) is reached, too many calls wait for a connection, or
    /// the instances refused for overload. The error says which, and its attempts tell who refused.
    Overloaded,
    /// The time allowed for the call passed; the error says which limit it was and where it was set.
    Deadline,
    /// No instance could be connected to.
    Connect,
    /// A connection broke under the call, or the peer broke the protocol.
    Transport,
    /// The peer answered with a status that was asked to be an error.
    Status,
    /// The request or the options cannot be sent as they are.
    Invalid,
    /// The answer is not what was asked for: too large, not JSON, not UTF-8.
    Answer,
    /// Something the channel does not do: upgrades, or TLS where it is not configured.
    Unsupported,
}

impl CallErrorKind {
    /// Lowercase, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoInstance => "no_instance",
            Self::RegistryUnavailable => "registry_unavailable",
            Self::Ejected => "ejected",
            Self::Overloaded => "overloaded",
            Self::Deadline => "deadline",
            Self::Connect => "connect",
            Self::Transport => "transport",
            Self::Status => "status",
            Self::Invalid => "invalid",
            Self::Answer => "answer",
            Self::Unsupported => "unsupported",
        }
    }

    /// What a generated client sees.
    fn code(self) -> tonic::Code {
        match self {
            Self::NoInstance
            | Self::RegistryUnavailable
            | Self::Ejected
            | Self::Connect
            | Self::Transport
            | Self::Status => tonic::Code::Unavailable,
            Self::Overloaded => tonic::Code::ResourceExhausted,
            Self::Deadline => tonic::Code::DeadlineExceeded,
            Self::Invalid | Self::Answer => tonic::Code::Internal,
            Self::Unsupported => tonic::Code::Unimplemented,
        }
    }
}

/// How far an attempt came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AttemptPhase {
    /// Opening or confirming a connection.
    Connect,
    /// Sending the request and waiting for the head of the answer.
    Exchange,
    /// Reading the body of the answer.
    Body,
}

impl AttemptPhase {
    /// Lowercase, as in error texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Exchange => "exchange",
            Self::Body => "body",
        }
    }
}

/// One attempt of a failed call.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// Where it went: `host:port`.
    pub address: Arc<str>,
    /// The instance whose record led there.
    pub instance: InstanceId,
    /// How far it came.
    pub phase: AttemptPhase,
    /// What happened, in a few words: `refused`, `reset by peer`, `503`, `grpc-status 14`.
    pub code: Cow<'static, str>,
    /// How long it took.
    pub elapsed: Duration,
    /// What followed: `re-routed`, `retried`, or why it ended there.
    pub then: &'static str,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.elapsed.as_secs_f64() * 1000.0;
        write!(f, "{} {}: {} after {millis:.1} ms", self.address, self.phase.as_str(), self.code)?;
        if self.then.is_empty() { Ok(()) } else { write!(f, ", {}", self.then) }
    }
}

/// Why a call failed.
///
/// `Display` names the service, the reason and every attempt. The first [`source`](error::Error::source)
/// carries the matching gRPC code, so that a generated client reports it; [`CallError::of`] finds the
/// error again behind the `Status` that such a client returns.
pub struct CallError(Box<Inner>);

struct Inner {
    kind: CallErrorKind,
    service: Option<ServiceName>,
    text: Cow<'static, str>,
    delivered: Delivered,
    pushback: Option<Duration>,
    attempts: Vec<Attempt>,
    /// Boxed: few errors have one.
    funnel: Option<Box<Funnel>>,
    code: tonic::Code,
    cause: Option<Arc<dyn error::Error + Send + Sync>>,
    /// What generated clients find first in the chain; always made from the fields above.
    status: tonic::Status,
}

impl CallError {
    /// An error of this kind; `text` says what happened, lowercase, without a full stop. Nothing was
    /// delivered unless [`delivered_maybe`](Self::delivered_maybe) says otherwise.
    pub fn new(kind: CallErrorKind, text: impl Into<Cow<'static, str>>) -> Self {
        let code = kind.code();
        let inner = Inner {
            kind,
            service: None,
            text: text.into(),
            delivered: Delivered::No,
            pushback: None,
            attempts: Vec::new(),
            funnel: None,
            code,
            cause: None,
            status: tonic::Status::new(code, ""),
        };
        Self(Box::new(inner)).restated()
    }

    /// With its status made anew. The attempts stay out of it: a handler may pass the status on to its
    /// own caller, who should not learn our addresses.
    fn restated(mut self) -> Self {
        let mut status = tonic::Status::new(self.0.code, Headline(&self.0).to_string());
        if let Some(cause) = &self.0.cause {
            status.set_source(Arc::clone(cause));
        }
        self.0.status = status;
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.cause = Some(Arc::from(source.into()));
        self.restated()
    }

    /// Says that a handler may have seen the request.
    #[must_use]
    pub fn delivered_maybe(mut self) -> Self {
        self.0.delivered = Delivered::Maybe;
        self.restated()
    }

    pub(crate) fn with_service(mut self, service: &ServiceName) -> Self {
        self.0.service = Some(service.clone());
        self.restated()
    }

    pub(crate) fn with_code(mut self, code: tonic::Code) -> Self {
        self.0.code = code;
        self.restated()
    }

    pub(crate) fn with_delivered(mut self, delivered: Delivered) -> Self {
        self.0.delivered = delivered;
        self.restated()
    }

    pub(crate) fn with_pushback(mut self, pushback: Option<Duration>) -> Self {
        self.0.pushback = pushback;
        self
    }

    pub(crate) fn with_attempts(mut self, attempts: Vec<Attempt>) -> Self {
        self.0.attempts = attempts;
        self
    }

    pub(crate) fn with_funnel(mut self, funnel: Funnel) -> Self {
        self.0.funnel = Some(Box::new(funnel));
        self.restated()
    }

    /// Why no endpoint was found, where that is the error.
    pub fn funnel(&self) -> Option<&Funnel> {
        self.0.funnel.as_deref()
    }

    /// What callers branch on.
    pub fn kind(&self) -> CallErrorKind {
        self.0.kind
    }

    /// The attempts that were made, in order; empty when none was.
    pub fn attempts(&self) -> &[Attempt] {
        &self.0.attempts
    }

    /// The error behind a `Status` that a generated client returned, if it came from a `Channel`.
    ///
    /// ```
    /// use meshwork_client::{CallError, CallErrorKind};
    /// let error = CallError::new(CallErrorKind::NoInstance, "no instance is known");
    /// let status = tonic::Status::from_error(Box::new(error));
    /// assert_eq!(status.code(), tonic::Code::Unavailable);
    /// assert_eq!(CallError::of(&status).map(CallError::kind), Some(CallErrorKind::NoInstance));
    /// ```
    pub fn of<'a>(status: &'a (dyn error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(status);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<Self>() {
                return Some(found);
            }
            next = error.source();
        }
        None
    }
}

impl Verdict for CallError {
    fn delivered(&self) -> Delivered {
        self.0.delivered
    }

    fn pushback(&self) -> Option<Duration> {
        self.0.pushback
    }
}

/// What happened, without the attempts.
struct Headline<'a>(&'a Inner);

impl fmt::Display for Headline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.service {
            Some(service) => write!(f, "calling `{service}`: {}", self.0.text)?,
            None => f.write_str(&self.0.text)?,
        }
        // Where the registry has not answered, the text says so already.
        if let Some(funnel) = self.0.funnel.as_deref().filter(|funnel| funnel.answered) {
            write!(f, " ({funnel})")?;
        }
        if self.0.delivered == Delivered::Maybe {
            f.write_str(" (may have been delivered)")?;
        }
        Ok(())
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Headline(&self.0), f)?;
        for (place, attempt) in self.0.attempts.iter().enumerate() {
            f.write_str(if place == 0 { "; attempts: " } else { "; " })?;
            write!(f, "{attempt}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallError")
            .field("kind", &self.0.kind)
            .field("text", &format_args!("{self}"))
            .field("cause", &self.0.cause)
            .finish()
    }
}

impl error::Error for CallError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        Some(&self.0.status)
    }
}

const _: () = assert!(size_of::<CallError>() == size_of::<usize>(), "errors travel in every result");

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_generated_client_sees_the_code_and_finds_the_error_again() {
        let error = CallError::new(CallErrorKind::Deadline, "no answer within 300ms")
            .delivered_maybe()
            .with_service(&ServiceName::new("users").unwrap())
            .with_source(io::Error::from(io::ErrorKind::TimedOut));
        let status = tonic::Status::from_error(Box::new(error));
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert_eq!(status.message(), "calling `users`: no answer within 300ms (may have been delivered)");
        let found = CallError::of(&status).expect("our error behind the status");
        assert_eq!(found.delivered(), Delivered::Maybe);
    }

    #[test]
    fn the_cause_is_in_the_chain() {
        let error = CallError::new(CallErrorKind::Transport, "connection lost")
            .with_source(io::Error::other("the cable is cut"));
        let chain = meshwork_core::ErrorChain(&error).to_string();
        assert!(chain.contains("the cable is cut"), "{chain}");
    }

    #[test]
    fn the_text_lists_each_attempt_and_why_it_ended() {
        let attempt = |then| Attempt {
            address: "10.0.0.7:80".into(),
            instance: InstanceId::new("users-1").unwrap(),
            phase: AttemptPhase::Exchange,
            code: "reset by peer".into(),
            elapsed: Duration::from_micros(1500),
            then,
        };
        let error = CallError::new(CallErrorKind::Transport, "connection lost")
            .with_attempts(vec![attempt("retried"), attempt("no retry: not idempotent")]);
        assert_eq!(
            error.to_string(),
            "connection lost; attempts: 10.0.0.7:80 exchange: reset by peer after 1.5 ms, retried; \
             10.0.0.7:80 exchange: reset by peer after 1.5 ms, no retry: not idempotent"
        );
    }
}
