//! The subscriber of a process that set none: plain lines on standard error.

use std::{env, io::IsTerminal};

use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Sets a subscriber unless the process has one. `RUST_LOG` filters it (`info` by default); what cannot
/// be read in it is told once.
pub(crate) fn init() {
    let (filter, mistake) = match env::var("RUST_LOG") {
        Ok(text) if !text.is_empty() => match text.parse::<Targets>() {
            Ok(filter) => (filter, None),
            Err(error) => (default_filter(), Some((text, error))),
        },
        _ => (default_filter(), None),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none());
    let set = tracing_subscriber::registry().with(lines).with(filter).try_init().is_ok();
    if let (true, Some((text, error))) = (set, mistake) {
        tracing::warn!(RUST_LOG = %text, %error, "log filter not understood, using `info`");
    }
}

fn default_filter() -> Targets {
    Targets::new().with_default(LevelFilter::INFO)
}
