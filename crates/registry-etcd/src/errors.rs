//! What etcd and the transport answer, as the registry contract's errors.

use std::{error, fmt, io, iter, sync::Arc};

use meshwork_core::{BoxError, Error, ErrorChain, ErrorKind};
use tonic::{Code, Status};

use crate::config::is_https;

// What etcd says of tokens, users and permissions, each by one text, and some releases by another.
const BAD_TOKEN: &str = "etcdserver: invalid auth token";
const OLD_USERS: &str = "etcdserver: revision of auth store is old";
const OLD_USERS_TOO: &str = "auth: revision in header is old";
const NO_USER: &str = "etcdserver: user name is empty";
const BAD_PASSWORD: &str = "etcdserver: authentication failed, invalid user ID or password";
const WITHOUT_USERS: &str = "etcdserver: authentication is not enabled";
const NOT_PERMITTED: &str = "etcdserver: permission denied";

/// A status whose text is its message alone.
#[derive(Debug)]
struct Answer(Status);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.message() {
            "" => f.write_str(self.0.code().description()),
            message => f.write_str(&explained(message)),
        }
    }
}

impl error::Error for Answer {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source()
    }
}

/// The error of an attempt: `context` says what was attempted.
pub(crate) fn of(context: impl Into<Box<str>>, cause: etcd_client::Error) -> Error {
    let kind = kind(&cause);
    let source: BoxError = match cause {
        etcd_client::Error::GRpcStatus(status) => Box::new(Answer(status)),
        other => Box::new(other),
    };
    Error::new(kind, context).with_source(source)
}

/// The error of the first request on a connection, where the other side may be anything.
pub(crate) fn of_first_contact(address: &str, cause: etcd_client::Error) -> Error {
    let context = match is_closed(&cause) {
        false => format!("asking {address}"),
        true if is_https(address) => {
            format!(
                "{address} closed the connection without an answer (does it speak TLS, and take our certificate?)"
            )
        }
        true => {
            format!(
                "{address} closed the connection without an answer (is it an etcd, and none that wants https?)"
            )
        }
    };
    of(context, cause)
}

/// What etcd says, without its wrapping, and with the key to set where there is one.
pub(crate) fn explained(message: &str) -> String {
    let message = message.rsplit(" desc = ").next().unwrap_or(message);
    if message == NO_USER { format!("{message} (set `user` and `password`)") } else { message.to_owned() }
}

/// A second error of the same kind, for another who met the same fault.
pub(crate) fn again(context: impl Into<Box<str>>, cause: &Arc<Error>) -> Error {
    Error::new(cause.kind(), context).with_source(Arc::clone(cause))
}

/// The whole chain of `error` as one line, where it cannot be handed on itself.
pub(crate) fn echo(error: &Error) -> Error {
    Error::new(error.kind(), ErrorChain(error).to_string())
}

fn kind(cause: &etcd_client::Error) -> ErrorKind {
    match cause {
        etcd_client::Error::GRpcStatus(status) => match status.code() {
            // Another login mends it.
            _ if is_about_token(status.message()) => ErrorKind::Unavailable,
            _ if matches!(status.message(), BAD_PASSWORD | NO_USER) => ErrorKind::Denied,
            Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Denied,
            Code::InvalidArgument => ErrorKind::Invalid,
            Code::Unimplemented => ErrorKind::Protocol,
            _ => beneath(status).unwrap_or(ErrorKind::Unavailable),
        },
        etcd_client::Error::InvalidArgs(_) | etcd_client::Error::InvalidUri(_) => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    }
}

/// What the transport met, where waiting cannot mend it.
fn beneath(status: &Status) -> Option<ErrorKind> {
    let causes = || iter::successors(error::Error::source(status), |cause| cause.source());
    if let Some(ours) = causes().find_map(|cause| cause.downcast_ref::<Error>()) {
        return Some(ours.kind());
    }
    if let Some(kind) = causes().find_map(of_tls) {
        return Some(kind);
    }
    for cause in causes() {
        // The other side answered bytes that are no HTTP/2 at all: not an etcd.
        if let Some(h2) = cause.downcast_ref::<h2::Error>()
            && h2.is_library()
            && matches!(h2.reason(), Some(h2::Reason::FRAME_SIZE_ERROR | h2::Reason::PROTOCOL_ERROR))
        {
            return Some(ErrorKind::Protocol);
        }
    }
    None
}

/// Whether the other side closed the connection, before or instead of an answer.
fn is_closed(cause: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = cause else { return false };
    let mut next = error::Error::source(status);
    while let Some(error) = next {
        let inner = error.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
        if let Some(io) = inner.or_else(|| error.downcast_ref::<io::Error>()) {
            let kind = innermost(io).kind();
            return matches!(
                kind,
                io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            );
        }
        next = error.source();
    }
    status.code() == Code::Cancelled
}

/// The I/O error that others wrap.
fn innermost(error: &io::Error) -> &io::Error {
    let mut error = error;
    while let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<io::Error>()) {
        error = inner;
    }
    error
}

/// The kind of what TLS met in this one, if it is that; HTTP/2 errors wrap it without telling.
fn of_tls(error: &(dyn error::Error + 'static)) -> Option<ErrorKind> {
    let io = error.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
    Some(match meshwork_tls::tls_of(io.map_or(error, |io| io as _))? {
        rustls::Error::AlertReceived(_) | rustls::Error::InvalidCertificate(_) => ErrorKind::Denied,
        _ => ErrorKind::Protocol,
    })
}

/// Whether this is said of a token that was good once: another login may mend it.
fn is_about_token(message: &str) -> bool {
    [BAD_TOKEN, OLD_USERS, OLD_USERS_TOO].iter().any(|text| message.ends_with(text))
}

/// Whether a watch was refused for its token, or for having none.
pub(crate) fn is_reason_token(reason: &str) -> bool {
    is_about_token(reason) || reason.ends_with(NO_USER)
}

/// Whether a watch was refused for want of permission.
pub(crate) fn is_reason_permission(reason: &str) -> bool {
    reason.ends_with(NOT_PERMITTED)
}

/// Whether a request was refused for its token, or for having none, and surely not done.
pub(crate) fn is_token_refused(cause: &etcd_client::Error) -> bool {
    matches!(cause, etcd_client::Error::GRpcStatus(status) if is_reason_token(status.message()))
}

/// Whether etcd asks who we are, and nobody told.
pub(crate) fn is_nobody(cause: &etcd_client::Error) -> bool {
    matches!(cause, etcd_client::Error::GRpcStatus(status) if status.message() == NO_USER)
}

/// Whether etcd knows the user and does not let him do this.
pub(crate) fn is_not_permitted(cause: &etcd_client::Error) -> bool {
    matches!(cause, etcd_client::Error::GRpcStatus(status) if status.message() == NOT_PERMITTED)
}

/// Whether a login was refused for its user or password.
pub(crate) fn is_login_refused(cause: &etcd_client::Error) -> bool {
    matches!(cause, etcd_client::Error::GRpcStatus(status) if status.message() == BAD_PASSWORD)
}

/// Whether etcd asks nobody who he is.
pub(crate) fn is_without_users(cause: &etcd_client::Error) -> bool {
    matches!(cause, etcd_client::Error::GRpcStatus(status) if status.message() == WITHOUT_USERS)
}

fn code(cause: &etcd_client::Error) -> Option<Code> {
    match cause {
        etcd_client::Error::GRpcStatus(status) => Some(status.code()),
        _ => None,
    }
}

/// Whether etcd says that the lease does not exist (any more).
pub(crate) fn is_lease_gone(cause: &etcd_client::Error) -> bool {
    code(cause) == Some(Code::NotFound)
}

/// Whether the range is compacted, or an answer was larger than we take: a list starts over, smaller.
pub(crate) fn is_out_of_range(cause: &etcd_client::Error) -> bool {
    code(cause) == Some(Code::OutOfRange)
}

/// Whether a member answered that it cannot serve now: there is no leader, an election is under way.
pub(crate) fn is_answered_unavailable(cause: &etcd_client::Error) -> bool {
    // What the transport says of itself has a cause of its own.
    matches!(cause, etcd_client::Error::GRpcStatus(status)
        if status.code() == Code::Unavailable && error::Error::source(status).is_none())
}

/// Whether another member may answer better.
pub(crate) fn is_worth_another_member(cause: &etcd_client::Error) -> bool {
    match cause {
        etcd_client::Error::GRpcStatus(status) => matches!(
            status.code(),
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal
        ),
        etcd_client::Error::TransportError(_) | etcd_client::Error::IoError(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: Code, message: &str) -> etcd_client::Error {
        etcd_client::Error::GRpcStatus(Status::new(code, message))
    }

    #[test]
    fn kinds_are_by_code() {
        for (code, kind) in [
            (Code::PermissionDenied, ErrorKind::Denied),
            (Code::Unauthenticated, ErrorKind::Denied),
            (Code::InvalidArgument, ErrorKind::Invalid),
            (Code::Unimplemented, ErrorKind::Protocol),
            (Code::Unavailable, ErrorKind::Unavailable),
            (Code::ResourceExhausted, ErrorKind::Unavailable),
        ] {
            assert_eq!(of("x", told(code, "")).kind(), kind, "{code:?}");
        }
    }

    #[test]
    fn the_chain_is_one_short_line() {
        let error = of("listing `users`", told(Code::Unavailable, "etcdserver: no leader"));
        assert_eq!(ErrorChain(&error).to_string(), "listing `users`: etcdserver: no leader");
        assert_eq!(echo(&error).to_string(), "listing `users`: etcdserver: no leader");
    }
}
