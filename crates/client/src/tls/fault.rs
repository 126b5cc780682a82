//! What went wrong in TLS, in words that say what to do.

use std::{error::Error, fmt, io};

use meshwork_core::Endpoint;
use meshwork_tls::{advice, tls_of};

use crate::{CallError, CallErrorKind};

/// The error of a handshake.
pub(crate) fn of(to: &Endpoint, error: io::Error) -> CallError {
    let advice = match tls_of(&error) {
        Some(error) => advice(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            Some("it closed during the handshake: does it speak TLS, and take our certificate?".into())
        }
        None => None,
    };
    match advice {
        Some(advice) => {
            // Not as an `io::Error`: what is told of it is ours, not its kind.
            let text = format!("TLS to `{to}`: {advice}");
            CallError::new(CallErrorKind::Connect, text).with_source(Behind(error))
        }
        None => CallError::new(CallErrorKind::Connect, format!("TLS to `{to}`")).with_source(error),
    }
}

/// An error of a stream after its handshake: with TLS 1.3 the peer judges our certificate only then.
pub(crate) fn after(error: io::Error) -> io::Error {
    match tls_of(&error).and_then(advice) {
        Some(advice) => io::Error::new(error.kind(), Told { advice, error }),
        None => error,
    }
}

/// An I/O error as the cause of one that says more.
#[derive(Debug)]
struct Behind(io::Error);

impl fmt::Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Error for Behind {}

/// An I/O error that says what to do.
#[derive(Debug)]
struct Told {
    advice: String,
    error: io::Error,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.advice)
    }
}

impl Error for Told {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}
