//! Notices that the files of the configuration have changed, and has them read again.
//!
//! On a thread of its own: a look costs one wake-up and no worker of the runtime, and a file system that hangs
//! holds up nobody. Looks and not events, because what a container mounts reports none.

use std::{io, sync::Arc, thread, time::Duration};

use meshwork_config::Stamps;
use tokio::runtime::Handle;

use crate::{bell::Rung, handle::Shared, wiring::Wiring};

/// How often the files are looked at while nothing changes. With [`STILL`] a change holds within 1 s.
const LOOK: Duration = Duration::from_millis(800);
/// How long changed files must stand still before they are read, so that none is read half written.
const STILL: Duration = Duration::from_millis(100);
/// Without files there is nothing to look at, only somebody who may ask.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// What was seen of the files.
struct Looks {
    /// When they were read.
    read: Stamps,
    /// At the last look.
    last: Stamps,
}

/// Follows the files, and whoever asks by [`Shared::reload`]'s bell, until it is dropped.
pub(crate) struct Following(Arc<Shared>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.reload.end();
    }
}

/// Begins to follow.
///
/// # Errors
/// When there is no thread to be had.
///
/// # Panics
/// Outside a tokio runtime: what is live may be served there.
pub(crate) fn spawn(shared: &Arc<Shared>, wiring: &Arc<Wiring>) -> io::Result<Following> {
    let following = Following(Arc::clone(shared));
    let (shared, wiring, runtime) = (Arc::clone(shared), Arc::clone(wiring), Handle::current());
    let follow = move || {
        let _inside = runtime.enter();
        let mut looks = Looks::new(wiring.config.stamps());
        loop {
            let asked = match shared.reload.wait(looks.pause()) {
                Some(Rung::End) => return,
                Some(Rung::Called) => true,
                None => false,
            };
            // The stamps are older than what is read: a change in between is seen at the next look.
            if looks.is_time(looks.read.again(), asked) {
                // Whatever it came to has been logged.
                let _reloaded = wiring.reload();
            }
        }
    };
    // It ends with the guard; nobody waits for it.
    thread::Builder::new().name("configuration".into()).spawn(follow)?;
    Ok(following)
}

impl Looks {
    fn new(read: &Stamps) -> Self {
        Self { read: read.clone(), last: read.clone() }
    }

    /// How long until the next look.
    fn pause(&self) -> Duration {
        match (self.read.is_empty(), self.last == self.read) {
            (true, _) => NEVER,
            (false, true) => LOOK,
            (false, false) => STILL,
        }
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
