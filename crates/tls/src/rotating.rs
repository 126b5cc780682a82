//! A value made of files, made anew when they change.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meshwork_core::{Error, ErrorChain};
use tokio::time::Instant;

use crate::files::{Contents, Named};

/// The files are looked at again at most so often, and only when the value is asked for.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What is made of the files.
type Make<T> = Box<dyn Fn(&Contents) -> Result<T, Error> + Send + Sync>;

/// See the module.
pub(crate) struct Rotating<T> {
    place: Box<str>,
    named: Named,
    /// Whether the machine's certificates are wanted.
    platform: bool,
    make: Make<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    looked: Option<Instant>,
    /// The contents last judged, good or bad.
    judged: Option<Contents>,
    good: Option<Arc<T>>,
    /// The files cannot be used, and that was said.
    warned: bool,
}

impl<T> Rotating<T> {
    /// No I/O: the files are read when the value is asked for.
    pub(crate) fn new(
        place: &str,
        named: Named,
        platform: bool,
        make: impl Fn(&Contents) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Self {
        let state = Mutex::new(State { looked: None, judged: None, good: None, warned: false });
        Self { place: place.into(), named, platform, make: Box::new(make), state }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of the moment.
    ///
    /// # Errors
    /// Only while the files could never be used.
    ///
    /// # Cancel safety
    /// May be dropped; the next call looks again.
    pub(crate) async fn current(&self) -> Result<Arc<T>, Error> {
        let now = Instant::now();
        {
            let state = self.state();
            let recent = state.looked.is_some_and(|looked| now.duration_since(looked) < LOOK_AGAIN);
            if let (true, Some(good)) = (recent, &state.good) {
                return Ok(Arc::clone(good));
            }
        }
        let read = Contents::read(self.named.clone(), self.platform).await;
        self.judge(now, read)
    }

    /// Takes what was read, or stays with the last good files and says so once.
    fn judge(&self, now: Instant, read: Contents) -> Result<Arc<T>, Error> {
        let mut state = self.state();
        state.looked = state.looked.max(Some(now));
        if let (Some(judged), Some(good)) = (&state.judged, &state.good)
            && *judged == read
        {
            return Ok(Arc::clone(good));
        }
        let made = (self.make)(&read);
        state.judged = Some(read);
        match (made, &state.good) {
            (Ok(made), before) => {
                if before.is_some() {
                    tracing::info!(of = %self.place, "TLS files have changed: new connections use them");
                }
                let made = Arc::new(made);
                state.good = Some(Arc::clone(&made));
                state.warned = false;
                Ok(made)
            }
            (Err(error), Some(good)) => {
                let good = Arc::clone(good);
                if !mem::replace(&mut state.warned, true) {
                    let error = ErrorChain(&error);
                    tracing::warn!(of = %self.place, %error, "TLS files cannot be used: those read before are");
                }
                Ok(good)
            }
            (Err(error), None) => Err(error),
        }
    }
}
