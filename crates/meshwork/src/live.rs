//! The configuration of a running app, read again: what is live is applied, what is not is named.
//!
//! Everything is judged before anything is applied, so a mistake anywhere changes nothing.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meshwork_config::Config;
use meshwork_core::{Error, ErrorChain, Publisher, Staleness, Watch};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::RunError;

/// What reading the configuration again came to; see [`Handle::reload`](crate::Handle::reload).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reloaded {
    /// The changed keys that hold from now on, `registry.both.read`.
    pub applied: Vec<Box<str>>,
    /// The changed keys that hold once the process is started again.
    pub restart_needed: Vec<Box<str>>,
}

/// Does what was judged.
pub(crate) type Apply = Box<dyn FnOnce() + Send>;

/// Something that follows the configuration while the app runs.
pub(crate) trait LivePart: Send + Sync + 'static {
    /// Whether this part follows the key.
    fn follows(&self, key: &str) -> bool;

    /// Judges its keys in a newer configuration; `None` when it cannot follow while it runs.
    ///
    /// # Errors
    /// What is wrong, and where.
    fn judge(&self, newer: &Config) -> Result<Option<Apply>, RunError>;

    /// The configuration cannot be read just now; what was applied last holds.
    fn doubt(&self, _cause: &Arc<Error>) {}

    /// It can be read again and says what it said.
    fn trust(&self) {}
}

/// The live side of a configuration: what is running, what was read last, and who follows.
pub(crate) struct Live {
    /// As read at the start: what every key that is not live goes by.
    running: Config,
    state: Mutex<State>,
}

struct State {
    last: Config,
    parts: Vec<Arc<dyn LivePart>>,
    is_doubtful: bool,
}

// === impl Live ===

impl Live {
    pub(crate) fn new(running: Config) -> Self {
        let state = State { last: running.clone(), parts: Vec::new(), is_doubtful: false };
        Self { running, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds something that follows.
    pub(crate) fn follow(&self, part: Arc<dyn LivePart>) {
        self.state().parts.push(part);
    }

    /// A live section of the application's own.
    ///
    /// # Errors
    /// What is wrong in it, and where.
    pub(crate) fn section<T>(&self, name: &str) -> Result<Watch<T>, RunError>
    where
        T: DeserializeOwned + Send + Sync + 'static,
    {
        let mut state = self.state();
        let first: Arc<T> = Arc::new(state.last.section(name)?);
        let publisher = Publisher::new(Arc::clone(&first));
        publisher.publish(Staleness::Fresh, first, Arc::new([]));
        let watch = publisher.watch();
        state.parts.push(Arc::new(Section { name: name.into(), publisher: Arc::new(publisher) }));
        Ok(watch)
    }

    /// Reads the sources again and applies what is live; `judge` looks at what no part follows. Blocks on the files.
    ///
    /// # Errors
    /// The configuration has a mistake; nothing was applied.
    pub(crate) fn reload(
        &self,
        judge: impl FnOnce(&Config) -> Result<(), RunError>,
    ) -> Result<Reloaded, RunError> {
        let mut state = self.state();
        match state.reload(&self.running, judge) {
            Ok(reloaded) => Ok(reloaded),
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "configuration kept as it was: the new one has a mistake");
                let cause = Arc::new(Error::invalid(ErrorChain(&error).to_string()));
                state.is_doubtful = true;
                state.parts.iter().for_each(|part| part.doubt(&cause));
                Err(error)
            }
        }
    }
}

impl State {
    fn reload(
        &mut self,
        running: &Config,
        judge: impl FnOnce(&Config) -> Result<(), RunError>,
    ) -> Result<Reloaded, RunError> {
        let newer = self.last.reload()?;
        judge(&newer)?;
        let changed = self.last.changed_keys(&newer);
        let (mut applied, mut decided) = (BTreeSet::new(), Vec::new());
        for part in &self.parts {
            let followed = || changed.iter().filter(|key| part.follows(key));
            let apply = if followed().next().is_some() { part.judge(&newer)? } else { None };
            if apply.is_some() {
                applied.extend(followed());
            }
            decided.push(apply);
        }

        // From here nothing fails.
        for (part, apply) in self.parts.iter().zip(decided) {
            match apply {
                Some(apply) => apply(),
                None if self.is_doubtful => part.trust(),
                None => {}
            }
        }
        self.is_doubtful = false;
        // A key that is back to what the process was started with needs nothing; nor does what nobody has read.
        let differs = running.changed_keys(&newer);
        let needs_restart = |key: &&String| differs.contains(key) && newer.is_read(key);
        let rest: Vec<_> =
            changed.iter().filter(|key| !applied.contains(key)).filter(needs_restart).collect();
        for key in &applied {
            tracing::info!(%key, from = %newer.origin(key), "configuration changed, applied");
        }
        for key in &rest {
            tracing::warn!(%key, from = %newer.origin(key), "configuration changed, restart needed");
        }
        if applied.is_empty() && rest.is_empty() {
            tracing::info!("configuration read again, nothing to apply");
        }
        let reloaded = Reloaded {
            applied: applied.into_iter().map(|key| key.as_str().into()).collect(),
            restart_needed: rest.into_iter().map(|key| key.as_str().into()).collect(),
        };
        self.last = newer;
        Ok(reloaded)
    }
}

/// A section of the application's own and who watches it.
struct Section<T> {
    name: Box<str>,
    publisher: Arc<Publisher<T>>,
}

impl<T: DeserializeOwned + Send + Sync + 'static> LivePart for Section<T> {
    fn follows(&self, key: &str) -> bool {
        is_below(key, &self.name)
    }

    fn judge(&self, newer: &Config) -> Result<Option<Apply>, RunError> {
        let value: Arc<T> = Arc::new(newer.section(&self.name)?);
        let publisher = Arc::clone(&self.publisher);
        Ok(Some(Box::new(move || publisher.publish(Staleness::Fresh, value, Arc::new([])))))
    }

    fn doubt(&self, cause: &Arc<Error>) {
        if self.publisher.latest().staleness().is_fresh() {
            let (since, age) = (Instant::now(), Duration::ZERO);
            self.publisher.restate(Staleness::Stale { since, age, cause: Arc::clone(cause) });
        }
    }

    fn trust(&self) {
        self.publisher.restate(Staleness::Fresh);
    }
}

/// Whether `key` is `section` or stands below it.
pub(crate) fn is_below(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let listed = |keys: &[Box<str>]| if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
        write!(f, "applied: {}; restart needed: {}", listed(&self.applied), listed(&self.restart_needed))
    }
}
