//! SIGINT and SIGTERM: the first asks to stop, the second ends the process.

use std::{io, process};

use meshwork_core::Task;
use tokio::{
    select,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::control::Control;

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> (&'static str, i32) {
        select! {
            _ = self.interrupt.recv() => ("SIGINT", 2),
            _ = self.terminate.recv() => ("SIGTERM", 15),
        }
    }
}

/// Turns signals into the wish to stop, as long as the task lives.
///
/// # Errors
/// When the process cannot listen for signals.
pub(crate) fn spawn(control: Control) -> io::Result<Task> {
    let mut signals = Signals::listen()?;
    let end = CancellationToken::new();
    let handle = tokio::spawn(async move {
        let (name, _) = signals.next().await;
        control.stop(name);
        let (name, number) = signals.next().await;
        tracing::warn!(signal = name, "second signal, ending at once");
        // A handler that never yields could hold the runtime for ever; nothing may delay this.
        process::exit(128 + number);
    });
    Ok(Task::new("signals", end, handle))
}
