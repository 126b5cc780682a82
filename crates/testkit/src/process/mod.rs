//! Processes that die with their test.
//!
//! Each one leads a process group of its own. Dropping the [`Process`] kills the group, also while a test panics; when
//! the test itself is killed, one small shell per test process, which waits on a pipe from it, kills what is left.
//! (A parent-death signal would follow the spawning thread, not the process, and exists on Linux only.)

mod output;
mod program;
mod watchdog;

use std::{
    fmt,
    process::ExitStatus,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::watch;

use self::output::Captured;
pub use self::program::Program;
use crate::{Error, truth::eventually};

/// How long a drop waits for the end of a process that was killed.
const KILLED: Duration = Duration::from_secs(5);
/// How long a process may run on after SIGSTOP.
const STOPPED: Duration = Duration::from_secs(5);
/// How long its last lines may take after its end.
const PRINTED: Duration = Duration::from_millis(500);
/// How many lines of each stream an error shows.
const TAIL: usize = 40;

/// A running child process, or what is left of it: its status and its output.
///
/// Signals do nothing once it has ended.
pub struct Process {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    pid: Pid,
    state: Mutex<State>,
    ended: Condvar,
    changed: watch::Sender<()>,
}

struct State {
    /// Set under the lock in which the process is reaped: while it is `None` the pid is ours.
    exit: Option<ExitStatus>,
    stdout: Captured,
    stderr: Captured,
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

// === impl Process ===

impl Process {
    /// The name it was given, for messages.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its process id, which is also that of its group.
    pub fn id(&self) -> u32 {
        self.shared.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Whether it has not ended yet; a frozen process runs.
    pub fn is_running(&self) -> bool {
        self.shared.lock().exit.is_none()
    }

    /// Kills it and its group by SIGKILL, which also ends a frozen one. [`ended`](Self::ended) tells when it is gone.
    pub fn kill9(&self) {
        self.shared.signal_group(Signal::KILL);
    }

    /// Stops it and its group by SIGSTOP, and returns when all its threads stand: connections stay open, nothing is
    /// answered. (One thread takes the signal; on a busy machine the others run on until it has got the processor.)
    ///
    /// # Errors
    /// When it has ended, or still runs after 5 s.
    ///
    /// # Cancel safety
    /// Once polled, it will be frozen also when the future is dropped.
    pub async fn freeze(&self) -> Result<(), Error> {
        self.shared.signal_group(Signal::STOP);
        eventually(STOPPED, "it stands", || async { self.shared.stands() || !self.is_running() })
            .await
            .and_then(|()| if self.is_running() { Ok(()) } else { Err(Error::new("it has ended")) })
            .map_err(|e| self.error(format!("freezing `{}`", self.name())).with_source(e))
    }

    /// Lets it go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.shared.signal_group(Signal::CONT);
    }

    /// Asks it to end by SIGTERM, as a supervisor does: the process only, not its group.
    pub fn terminate(&self) {
        self.shared.signal(Signal::TERM);
    }

    /// Sends SIGINT, as Ctrl-C does: the process only, not its group.
    pub fn interrupt(&self) {
        self.shared.signal(Signal::INT);
    }

    /// Waits until it has ended and all that it printed is here (not for children that it left behind: then at most
    /// half a second).
    ///
    /// # Errors
    /// When it still runs after `limit`; the error carries its output.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn ended(&self, limit: Duration) -> Result<ExitStatus, Error> {
        let Some(status) = self.wait(limit, |state| state.exit).await else {
            let waiting = format!("waiting for the end of `{}`: still running after {limit:?}", self.name());
            return Err(self.error(waiting));
        };
        let is_read = |state: &mut State| (!state.stdout.is_open() && !state.stderr.is_open()).then_some(());
        let _held_open = self.wait(PRINTED, is_read).await;
        Ok(status)
    }

    /// Asks it to end by SIGTERM, and kills it when it still runs after `grace`.
    ///
    /// # Errors
    /// When not even SIGKILL ends it within 5 s.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the process asked to end, but not killed.
    pub async fn stop(&self, grace: Duration) -> Result<ExitStatus, Error> {
        self.terminate();
        if let Ok(status) = self.ended(grace).await {
            return Ok(status);
        }
        self.kill9();
        self.ended(KILLED).await
    }

    /// Waits for a line of stdout for which `is_it` holds, and gives it.
    ///
    /// Looks at all lines after the one it found last, also at those printed before the call, so that calls in a row
    /// walk through the output.
    ///
    /// # Errors
    /// When there is none within `limit`, or stdout ends without one; the error carries the output.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn wait_for_line(
        &self,
        mut is_it: impl FnMut(&str) -> bool,
        limit: Duration,
    ) -> Result<String, Error> {
        let waiting = format!("waiting for a line of `{}`", self.name());
        let found = self.wait(limit, |state| match state.stdout.next(&mut is_it) {
            Some(line) => Some(Ok(line)),
            None => (!state.stdout.is_open()).then_some(Err(state.exit)),
        });
        match found.await {
            Some(Ok(line)) => Ok(line),
            Some(Err(Some(exit))) => Err(self.error(format!("{waiting}: it ended without one, {exit}"))),
            Some(Err(None)) => Err(self.error(format!("{waiting}: its stdout ended without one"))),
            None => Err(self.error(format!("{waiting}: none after {limit:?}"))),
        }
    }

    /// The last lines of stdout, oldest first, at most 10 000.
    pub fn stdout(&self) -> Vec<String> {
        self.shared.lock().stdout.tail(usize::MAX)
    }

    /// The last lines of stderr, oldest first, at most 10 000.
    pub fn stderr(&self) -> Vec<String> {
        self.shared.lock().stderr.tail(usize::MAX)
    }

    /// An error that carries the end of both streams.
    pub(crate) fn error(&self, attempted: String) -> Error {
        Error::new(attempted).with_output(self.shared.last_words())
    }

    async fn wait<T>(&self, limit: Duration, mut look: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let mut changed = self.shared.changed.subscribe();
        let waiting = async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = look(&mut self.shared.lock()) {
                    return found;
                }
                // The sender lives in `shared`, which lives as long as we do.
                let _ = changed.changed().await;
            }
        };
        tokio::time::timeout(limit, waiting).await.ok()
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("name", &self.name()).field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        self.shared.wait_blocking(KILLED);
        watchdog::forget(self.shared.pid);
        if std::thread::panicking() {
            eprintln!("{}", self.shared.last_words());
        }
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signal: Signal) {
        let state = self.lock();
        if state.exit.is_none() {
            // It can only fail when the process has ended this moment.
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }

    fn signal_group(&self, signal: Signal) {
        let state = self.lock();
        if state.exit.is_none() {
            let _ = rustix::process::kill_process_group(self.pid, signal);
        }
    }

    /// Whether all its threads are stopped.
    fn stands(&self) -> bool {
        let state = self.lock();
        let look = WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        state.exit.is_none()
            && rustix::process::waitid(WaitId::Pid(self.pid), look).is_ok_and(|seen| seen.is_some())
    }

    fn wait_blocking(&self, limit: Duration) {
        let until = Instant::now() + limit;
        let mut state = self.lock();
        while state.exit.is_none() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.ended.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn push(&self, stream: Stream, line: Option<String>) {
        let mut state = self.lock();
        let captured = match stream {
            Stream::Out => &mut state.stdout,
            Stream::Err => &mut state.stderr,
        };
        match line {
            Some(line) => captured.push(line),
            None => captured.close(),
        }
        drop(state);
        self.changed.send_replace(());
    }

    fn last_words(&self) -> String {
        let state = self.lock();
        let status = state.exit.map_or_else(|| "running".to_owned(), |exit| exit.to_string());
        let mut words = format!("--- `{}` ({}, {status})", self.name, self.pid.as_raw_nonzero());
        for (title, captured) in [("stdout", &state.stdout), ("stderr", &state.stderr)] {
            for line in captured.tail(TAIL) {
                words.push_str(&format!("\n{title}: {line}"));
            }
        }
        words
    }
}

#[cfg(test)]
mod tests;
