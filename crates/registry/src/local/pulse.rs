//! The heartbeats of all records that one backend holds.
//!
//! On one thread, and only while there are any: a beat is file work, which must not hold up the runtime, and
//! handed to it and back it would wake three threads instead of one.

use std::{
    io, mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use meshwork_core::Error;
use tokio::sync::oneshot;

/// Beats once, and says when to beat again.
type Beat = Box<dyn FnMut() -> Result<Instant, Error> + Send>;

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Pulse(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    hearts: Vec<Heart>,
    /// Whether the thread runs.
    beats: bool,
}

struct Heart {
    due: Instant,
    beat: Beat,
    /// Closed when nobody waits for the outcome any more.
    failed: oneshot::Sender<Error>,
}

impl Pulse {
    /// Beats from `due` on until a beat fails, and says why.
    ///
    /// # Cancel safety
    /// Dropping the future ends the beating, after the beat that may be under way.
    pub(super) async fn keep(
        &self,
        due: Instant,
        beat: impl FnMut() -> Result<Instant, Error> + Send + 'static,
    ) -> Error {
        // Dropped after `outcome`, so that the thread finds the heart forsaken.
        let _leaving = Leaving(&self.0);
        let (failed, outcome) = oneshot::channel();
        let heart = Heart { due, beat: Box::new(beat), failed };
        if let Err(error) = self.0.take_in(heart) {
            return Error::unavailable("starting the thread of heartbeats").with_source(error);
        }
        outcome.await.unwrap_or_else(|_| Error::unavailable("a heartbeat panicked"))
    }
}

/// Has the thread look who is still wanted.
struct Leaving<'a>(&'a Inner);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.changed.notify_one();
    }
}

// === impl Inner ===

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_in(self: &Arc<Self>, heart: Heart) -> io::Result<()> {
        let mut state = self.state();
        if !state.beats {
            let inner = Arc::clone(self);
            // It ends with the last heart; nobody waits for it.
            thread::Builder::new().name("meshwork-beat".to_owned()).spawn(move || inner.run())?;
            state.beats = true;
        }
        state.hearts.push(heart);
        self.changed.notify_one();
        Ok(())
    }

    fn run(&self) {
        let _fallen = Fallen(self);
        let mut state = self.state();
        loop {
            state.hearts.retain(|heart| !heart.failed.is_closed());
            let Some(next) = state.hearts.iter().map(|heart| heart.due).min() else {
                state.beats = false;
                return;
            };
            let now = Instant::now();
            if next > now {
                let waited = self.changed.wait_timeout(state, next - now);
                (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (due, later) = mem::take(&mut state.hearts).into_iter().partition(|heart| heart.due <= now);
            state.hearts = later;
            drop(state);
            let beaten: Vec<Heart> = Vec::into_iter(due).filter_map(Heart::beat).collect();
            state = self.state();
            state.hearts.extend(beaten);
        }
    }
}

impl Heart {
    /// Itself again, unless it failed.
    fn beat(mut self) -> Option<Self> {
        match (self.beat)() {
            Ok(next) => {
                self.due = next;
                Some(self)
            }
            Err(error) => {
                // Who left meanwhile does not want to know.
                let _ = self.failed.send(error);
                None
            }
        }
    }
}

/// After a beat that panicked the next record begins with a new thread, and those that were beaten here hear of it.
struct Fallen<'a>(&'a Inner);

impl Drop for Fallen<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            *self.0.state() = State::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering::SeqCst},
        time::Duration,
    };

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(5);
    const LIMIT: Duration = Duration::from_secs(20);

    async fn until(holds: impl Fn() -> bool) {
        let waiting = async {
            while !holds() {
                tokio::time::sleep(SOON).await;
            }
        };
        timeout(LIMIT, waiting).await.expect("it holds in time");
    }

    #[tokio::test]
    async fn records_beat_on_one_thread_that_ends_with_the_last() {
        let pulse = Pulse::default();
        let (beats, threads) = (Arc::new(AtomicU32::new(0)), Arc::new(Mutex::new(Vec::new())));
        let keep = || {
            let (pulse, beats, threads) = (pulse.clone(), Arc::clone(&beats), Arc::clone(&threads));
            tokio::spawn(async move {
                let beat = move || {
                    beats.fetch_add(1, SeqCst);
                    threads.lock().unwrap().push(thread::current().id());
                    Ok(Instant::now() + SOON)
                };
                pulse.keep(Instant::now(), beat).await
            })
        };
        let records = [keep(), keep()];
        until(|| beats.load(SeqCst) >= 6).await;
        threads.lock().unwrap().dedup();
        assert_eq!(threads.lock().unwrap().len(), 1);
        records.iter().for_each(tokio::task::JoinHandle::abort);
        until(|| !pulse.0.state().beats).await;
        // The next one is beaten again.
        let before = beats.load(SeqCst);
        let record = keep();
        until(|| beats.load(SeqCst) > before).await;
        record.abort();
    }

    #[tokio::test]
    async fn who_fails_or_panics_is_told_and_the_others_beat_on() {
        let pulse = Pulse::default();
        let long = Instant::now() + Duration::from_secs(3600);
        let mut left = 3;
        let error = pulse.keep(Instant::now(), move || {
            left -= 1;
            if left > 0 { Ok(Instant::now()) } else { Err(Error::unavailable("it was removed")) }
        });
        let other = pulse.keep(long, move || Ok(long));
        tokio::pin!(other);
        tokio::select! {
            error = timeout(LIMIT, error) => assert_eq!(error.unwrap().to_string(), "it was removed"),
            _ = &mut other => panic!("the other record goes on"),
        }
        let panics = pulse.keep(Instant::now(), || panic!("as the test wants it"));
        let (panicked, other) = timeout(LIMIT, async { tokio::join!(panics, other) }).await.unwrap();
        assert_eq!([panicked.to_string(), other.to_string()], ["a heartbeat panicked"; 2]);
        assert!(!pulse.0.state().beats);
    }
}
