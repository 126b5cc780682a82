//! The one event that says what is running, where, and from what.

use std::time::Duration;

use crate::{handle::Shared, wiring::Wiring};

/// Logs name, version, addresses, registry, configuration files and the time the start took.
pub(crate) fn show(shared: &Shared, wiring: &Wiring, took: Duration) {
    let listed = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    let addresses = listed(shared.bound().iter().map(ToString::to_string).collect());
    let config = listed(wiring.config.files_used().iter().map(|file| file.display().to_string()).collect());
    let service =
        listed(std::iter::once(&wiring.service).chain(&wiring.also).map(ToString::to_string).collect());
    tracing::info!(
        %service,
        version = %wiring.build.full_version(),
        env = %wiring.env,
        listen = %addresses,
        registry = %wiring.parts.description,
        %config,
        started_ms = took.as_millis() as u64,
        "serving"
    );
}
