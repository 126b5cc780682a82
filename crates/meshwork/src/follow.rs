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

/// What was seen of the files.
struct Looks {
    /// When they were read.
    read: Stamps,
    /// At the last look.
    last: Stamps,
}

/// Follows the files, and whoever asks by [`Shared::ask_reload`], as long as the task lives.
pub(crate) fn spawn(shared: &Arc<Shared>, wiring: &Arc<Wiring>) -> Task {
    let (shared, mut looks) = (Arc::clone(shared), Looks::new(wiring.config.stamps()));
    let end = CancellationToken::new();
    let handle = tokio::spawn(async move {
        loop {
            let asked = select! {
                () = shared.reload_asked() => true,
                () = sleep(LOOK), if !looks.read.is_empty() => false,
            };
            let Some(now) = look(&looks.read).await else { return };
            if looks.is_time(now, asked) {
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

impl Looks {
    fn new(read: &Stamps) -> Self {
        Self { read: read.clone(), last: read.clone() }
    }

    /// Whether the files are to be read now: somebody asked, or they have changed and stand still.
    fn is_time(&mut self, now: Stamps, asked: bool) -> bool {
        let stands_still = now == self.last;
        self.last = now;
        let is_time = asked || (stands_still && self.last != self.read);
        if is_time {
            self.read = self.last.clone();
        }
        is_time
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use meshwork_config::Config;

    use super::*;

    #[test]
    fn a_file_is_read_once_it_stands_still_and_then_not_again() {
        let dir = tempfile::tempdir().unwrap();
        let write = |text: &str| fs::write(dir.path().join("default.toml"), text).unwrap();
        write("");
        let config = Config::builder().environment("test").dir(dir.path()).build().unwrap();
        let mut looks = Looks::new(config.stamps());
        let mut look = |asked| looks.is_time(config.stamps().again(), asked);
        assert!(!look(false) && !look(false));
        // Written piece by piece: only the whole is read.
        for half in ["[serv", "[service]\nweight = 1", "[service]\nweight = 100"] {
            write(half);
            assert!(!look(false), "{half}");
        }
        assert!(look(false) && !look(false));
        // Who asks is not kept waiting.
        assert!(look(true));
        write("[service]\nweight = 7");
        assert!(look(true) && !look(false) && !look(false));
    }
}
