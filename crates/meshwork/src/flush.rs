//! The last step of every end: telemetry is flushed, within a budget of its own.
//!
//! What hangs here has cost telemetry and nobody's call, so it is told and changes no exit code.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use meshwork_config::DrainConfig;
use meshwork_core::ErrorChain;
use tokio::time::Instant;

use crate::{Handle, handle::Shared, hooks::Hook};

/// What `hooks` get together of the deadline, and nobody else.
pub(crate) fn budget(drain: &DrainConfig, hooks: &[Hook]) -> Duration {
    match hooks.is_empty() {
        true => Duration::ZERO,
        false => drain.flush.min(drain.deadline.saturating_sub(drain.settle) / 4),
    }
}

/// Runs all of them at the same time until `budget` has passed; what did not end well is told, a line each.
pub(crate) async fn all(shared: &Arc<Shared>, hooks: Vec<Hook>, budget: Duration) -> Vec<String> {
    let (began, until) = (Instant::now(), Instant::now() + budget);
    let each = hooks.into_iter().map(async |hook| {
        let name = hook.name().to_owned();
        match hook.run_aside(Handle::new(Arc::clone(shared)), until).await {
            Ok(()) => {
                tracing::debug!(step = %name, took = ?began.elapsed(), "flushed");
                None
            }
            Err(failure) => {
                let error = ErrorChain(&failure);
                tracing::warn!(step = %name, %error, "not flushed");
                Some(format!("{name}: {error}"))
            }
        }
    });
    join_all(each).await.into_iter().flatten().collect()
}
