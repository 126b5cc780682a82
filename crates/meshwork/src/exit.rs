//! Ends a process that something would hold up: the runtime waits at its end for whatever blocks one of its threads.

use std::{
    process,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
    time::Duration,
};

/// The apps of this process that have it to themselves, each with the others: they listen for its signals.
static ALIVE: AtomicUsize = AtomicUsize::new(0);
/// How often it is looked whether another app is alive.
const LOOK: Duration = Duration::from_millis(20);

/// What `main` may still do after `App::run`.
pub(crate) const WHOLE_OF_MAIN: Duration = Duration::from_millis(500);
/// What `main` may still do after `App::serve` when code of the author's blocks a thread.
pub(crate) const STUCK: Duration = Duration::from_secs(1);

/// One of the apps that the process lives for. None of them ends it while another one is alive.
pub(crate) struct Alive(());

impl Alive {
    pub(crate) fn new() -> Self {
        ALIVE.fetch_add(1, SeqCst);
        Self(())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, SeqCst);
    }
}

/// Whether at most one app is alive.
pub(crate) fn is_last() -> bool {
    ALIVE.load(SeqCst) <= 1
}

/// Ends the process with this code this time after its last app, if it has not ended by then.
pub(crate) fn soon(code: u8, after: Duration) {
    let wait = move || {
        while ALIVE.load(SeqCst) > 0 {
            thread::sleep(LOOK);
        }
        thread::sleep(after);
        process::exit(code.into());
    };
    // Owned by the process and ended by it: nothing may hold this up, so nothing waits for it.
    if let Err(error) = thread::Builder::new().name("exit".into()).spawn(wait) {
        tracing::warn!(%error, "end of the process cannot be watched over");
    }
}
