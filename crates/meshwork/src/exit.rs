//! Ends a process that something would hold up: the runtime waits at its end for whatever blocks one of its threads.

use std::{process, thread, time::Duration};

/// What `main` may still do after `App::run`.
pub(crate) const WHOLE_OF_MAIN: Duration = Duration::from_millis(500);
/// What `main` may still do after `App::serve` when code of the author's blocks a thread.
pub(crate) const STUCK: Duration = Duration::from_secs(1);

/// Ends the process with this code after this time, if it has not ended by then.
pub(crate) fn soon(code: u8, after: Duration) {
    let wait = move || {
        thread::sleep(after);
        process::exit(code.into());
    };
    // Owned by the process and ended by it: nothing may hold this up, so nothing waits for it.
    if let Err(error) = thread::Builder::new().name("exit".into()).spawn(wait) {
        tracing::warn!(%error, "end of the process cannot be watched over");
    }
}
