//! What is to be run, and how it is started.

use std::{
    ffi::OsStr,
    io::Read,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::watch;

use super::{Process, Shared, State, Stream, output, output::Captured, watchdog};
use crate::Error;

/// A program with its arguments, to be started any number of times.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: Command,
}

impl Program {
    /// The executable at `path`, or that name looked up on PATH. It is named after its file until [`named`](Self::named).
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut command = Command::new(path);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Self { name, command }
    }

    /// A name for messages, for instance `provider-2`.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// A variable of its environment; the others are inherited.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Takes a variable out of its environment.
    #[must_use]
    pub fn without_env(mut self, key: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(key);
        self
    }

    /// The folder it runs in; ours by default.
    #[must_use]
    pub fn dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What it reads from, for instance a socket that it is to take over; nothing by default.
    #[must_use]
    pub fn stdin(mut self, from: impl Into<Stdio>) -> Self {
        self.command.stdin(from);
        self
    }

    /// Starts it, its output captured.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&mut self) -> Result<Process, Error> {
        let said = |e: std::io::Error| Error::new(format!("starting `{}`", self.name)).with_source(e);
        watchdog::ready().map_err(said)?;
        let mut child = self.command.spawn().map_err(said)?;
        let pid = Pid::from_child(&child);
        let watched = watchdog::watch(pid);
        let stdout = child.stdout.take().expect("invariant: stdout is piped");
        let stderr = child.stderr.take().expect("invariant: stderr is piped");
        let shared = Arc::new(Shared {
            name: self.name.clone(),
            pid,
            state: Mutex::new(State { exit: None, stdout: Captured::new(), stderr: Captured::new() }),
            ended: Condvar::new(),
            changed: watch::Sender::new(()),
        });
        // From here on the guard kills the process on every path.
        let process = Process { shared: Arc::clone(&shared) };
        reap(child, Arc::clone(&shared)).map_err(said)?;
        capture(stdout, Stream::Out, Arc::clone(&shared)).map_err(said)?;
        capture(stderr, Stream::Err, shared).map_err(said)?;
        watched.map_err(said)?;
        Ok(process)
    }
}

/// A thread that ends with the process: it sees the end first, kills what is left of the group while the pid cannot
/// be given to another, and only then reaps.
fn reap(mut child: Child, shared: Arc<Shared>) -> std::io::Result<()> {
    let work = move || {
        let seen = loop {
            let waited = rustix::process::waitid(
                WaitId::Pid(shared.pid),
                WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
            );
            if !matches!(waited, Err(rustix::io::Errno::INTR)) {
                break waited.is_ok();
            }
        };
        let mut state = shared.lock();
        if seen {
            let _ = rustix::process::kill_process_group(shared.pid, Signal::KILL);
        }
        state.exit = child.wait().ok();
        drop(state);
        shared.ended.notify_all();
        shared.changed.send_replace(());
    };
    thread::Builder::new().name("testkit-reap".to_owned()).spawn(work).map(drop)
}

/// A thread that ends with the stream.
fn capture(from: impl Read + Send + 'static, stream: Stream, shared: Arc<Shared>) -> std::io::Result<()> {
    let work = move || {
        output::read_lines(from, |line| shared.push(stream, Some(line)));
        shared.push(stream, None);
    };
    thread::Builder::new().name("testkit-output".to_owned()).spawn(work).map(drop)
}
