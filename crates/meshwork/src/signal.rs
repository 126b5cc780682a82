//! SIGINT and SIGTERM: the first asks to stop, the second ends the process. SIGHUP: the configuration is read again.
//!
//! On a thread and a runtime of its own: handlers that block every worker must not keep a second signal from ending it.

use std::{
    io::{self, IsTerminal},
    process,
    sync::Arc,
    thread,
};

use tokio::{
    runtime, select,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::handle::Shared;

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

/// What a signal asks for.
enum Asked {
    Stop(&'static str, i32),
    Reload,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self, had_terminal: bool) -> Asked {
        select! {
            _ = self.interrupt.recv() => Asked::Stop("SIGINT", 2),
            _ = self.terminate.recv() => Asked::Stop("SIGTERM", 15),
            // The kernel sends it when the terminal is closed: nobody is there any more who could stop us.
            _ = self.hangup.recv() => match had_terminal && !has_terminal() {
                true => Asked::Stop("SIGHUP", 1),
                false => Asked::Reload,
            },
        }
    }

    async fn stop(&mut self, shared: &Shared, had_terminal: bool) -> (&'static str, i32) {
        loop {
            match self.next(had_terminal).await {
                Asked::Stop(name, number) => return (name, number),
                Asked::Reload => shared.reload.call(),
            }
        }
    }
}

/// Whether a terminal is at one of the standard streams, and not hung up.
fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// Whoever holds it has signals turned into wishes.
pub(crate) struct Listening {
    _end: DropGuard,
}

/// Turns signals into wishes, as long as the answer lives.
///
/// # Errors
/// When the process cannot listen for signals.
pub(crate) fn spawn(shared: &Arc<Shared>) -> io::Result<Listening> {
    let (shared, had_terminal) = (Arc::clone(shared), has_terminal());
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::listen()?
    };
    let end = CancellationToken::new();
    let ended = end.clone();
    let listen = async move {
        let (name, _) = signals.stop(&shared, had_terminal).await;
        shared.control.stop(name);
        let (name, number) = signals.stop(&shared, had_terminal).await;
        tracing::warn!(signal = name, "second signal, ending at once");
        // A handler that never yields could hold the runtime for ever; nothing may delay this.
        process::exit(128 + number);
    };
    let run = move || {
        runtime.block_on(async {
            select! {
                () = listen => {}
                () = ended.cancelled() => {}
            }
        });
    };
    // It ends with the guard; nobody waits for it.
    thread::Builder::new().name("signals".into()).spawn(run)?;
    Ok(Listening { _end: end.drop_guard() })
}
