//! Notices that the files of the configuration have changed, and has them read again.

use std::{sync::Arc, time::Duration};

use meshwork_config::Stamps;
use meshwork_core::Task;
use tokio::{select, task, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{handle::Shared, wiring::Wiring};

/// How often the files are looked at. They are read when they looked the same twice, so that none is read half
/// written; a change holds within 1 s.
const LOOK: Duration = Duration::from_millis(400);

/// Follows the files, and whoever asks by [`Shared::ask_reload`], as long as the task lives.
pub(crate) fn spawn(shared: &Arc<Shared>, wiring: &Arc<Wiring>) -> Task {
    let (shared, wiring) = (Arc::clone(shared), Arc::clone(wiring));
    let end = CancellationToken::new();
    let handle = tokio::spawn(async move {
        let (mut read, mut seen) = (wiring.config.stamps().clone(), wiring.config.stamps().clone());
        loop {
            let asked = select! {
                () = shared.reload_asked() => true,
                () = sleep(LOOK), if !read.is_empty() => false,
            };
            let Some(now) = look(&read).await else { return };
            let is_settled = now == seen;
            seen = now;
            if asked || (is_settled && seen != read) {
                read = seen.clone();
                // Whatever it came to has been logged.
                let _reloaded = shared.reload().await;
            }
        }
    });
    Task::new("configuration", end, handle)
}

/// What the files look like; nothing when the runtime ends.
async fn look(before: &Stamps) -> Option<Stamps> {
    let before = before.clone();
    task::spawn_blocking(move || before.again()).await.ok()
}
