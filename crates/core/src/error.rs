//! The one error type of the registry contracts, and the printer of error chains.

use std::{error, fmt};

/// Any error an author's code may hand to us.
pub type BoxError = Box<dyn error::Error + Send + Sync + 'static>;

/// What went wrong, in the one dimension that callers branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The other side cannot be reached, or did not answer in time; trying again may help.
    Unavailable,
    /// The other side refused us: credentials or permissions.
    Denied,
    /// Somebody else holds what we ask for, for instance our own instance id.
    Conflict,
    /// What was asked is malformed: a name, a parameter, a record.
    Invalid,
    /// The backend cannot do what was asked.
    Unsupported,
    /// The other side answered something that we do not understand, or is not the one it was before.
    Protocol,
}

impl ErrorKind {
    /// Whether waiting alone can mend it. Only start-up fails fast on the others; while running,
    /// every kind is retried, these slowly.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "unavailable",
            Self::Denied => "denied",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Unsupported => "unsupported",
            Self::Protocol => "protocol error",
        })
    }
}

/// An error of a registry, a source or an announcer: its kind, what was being attempted, and the cause.
///
/// `Display` prints what was attempted and never the source; [`ErrorChain`] prints the whole chain.
///
/// ```
/// use meshwork_core::{Error, ErrorChain, ErrorKind};
/// let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
/// let error = Error::new(ErrorKind::Unavailable, "watching `users`").with_source(refused);
/// assert_eq!(error.to_string(), "watching `users`");
/// assert_eq!(ErrorChain(&error).to_string(), "watching `users`: connection refused");
/// ```
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    context: Box<str>,
    source: Option<BoxError>,
}

impl Error {
    /// An error of this kind; `context` says what was being attempted, lowercase, without a full stop.
    pub fn new(kind: ErrorKind, context: impl Into<Box<str>>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The kind that callers branch on.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Shorthand for [`ErrorKind::Unavailable`].
    pub fn unavailable(context: impl Into<Box<str>>) -> Self {
        Self::new(ErrorKind::Unavailable, context)
    }

    /// Shorthand for [`ErrorKind::Invalid`].
    pub fn invalid(context: impl Into<Box<str>>) -> Self {
        Self::new(ErrorKind::Invalid, context)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn error::Error + 'static))
    }
}

/// Prints an error and all its sources on one line, separated by `: `.
///
/// A source whose text the line already ends with is left out, since many libraries repeat it.
#[derive(Clone, Copy)]
pub struct ErrorChain<'a>(pub &'a (dyn error::Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = self.0.to_string();
        let mut next = self.0.source();
        while let Some(source) = next {
            let text = source.to_string();
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            next = source.source();
        }
        f.write_str(&line)
    }
}

impl fmt::Debug for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_does_not_repeat_what_a_library_already_printed() {
        let inner = Error::unavailable("connection refused");
        let outer = Error::unavailable("listing `users`: connection refused").with_source(inner);
        assert_eq!(ErrorChain(&outer).to_string(), "listing `users`: connection refused");
    }

    #[test]
    fn only_unavailable_can_be_waited_out() {
        assert!(ErrorKind::Unavailable.is_transient());
        assert!(!ErrorKind::Denied.is_transient());
        assert!(!ErrorKind::Protocol.is_transient());
    }
}
