//! Turns a panic of a backend's code into an error, so that no bad record can end a keeper for good.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use meshwork_core::{Error, ErrorKind};

/// What `work` answers, or an error that says that it panicked while `doing` what it should.
///
/// The panic's own message has gone to the panic hook. Whatever panicked is not polled again.
///
/// # Cancel safety
/// As safe as `work`.
pub(crate) async fn shield<T>(
    work: impl Future<Output = T>,
    doing: impl FnOnce() -> String,
) -> Result<T, Error> {
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .map_err(|_panic| Error::new(ErrorKind::Protocol, format!("{}: the backend panicked", doing())))
}
