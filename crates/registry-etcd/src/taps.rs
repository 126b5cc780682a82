//! The watches that subscriptions and claims want, and the way what they see comes back to them.
//!
//! A tap belongs to one life of the watch stream: when that ends, the tap is cut, and its owner decides
//! whether to go on from where it was or to read anew.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use meshwork_core::Error;
use tokio::sync::{Notify, mpsc};

use crate::record::Event;

/// How many messages may wait for the owner of a tap; a slower one is cut, and reads anew.
const BACKLOG: usize = 256;

/// What a tap shows.
#[derive(Debug)]
pub(crate) enum Told {
    /// The watch stands; the store was at this revision.
    Created { revision: i64 },
    /// What happened, revision by revision, each complete.
    Events(Vec<Event>),
    /// Everything up to this revision was shown.
    Progress { revision: i64 },
    /// The history that was asked for no longer exists.
    Compacted,
    /// The stream is gone; nothing follows.
    Cut(Arc<Error>),
}

/// The range of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    Prefix(Box<str>),
    Key(Box<str>),
}

/// What the stream is asked to create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) id: i64,
    pub(crate) range: Range,
    /// 0 = from now on.
    pub(crate) from: i64,
}

/// All taps of one backend.
#[derive(Default)]
pub(crate) struct Taps {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    last: i64,
    open: BTreeMap<i64, Entry>,
    /// Created at the server, but no longer wanted.
    dropped: Vec<i64>,
    /// Why there is no stream, until one is there.
    absent: Option<Arc<Error>>,
}

struct Entry {
    wanted: Wanted,
    sent: bool,
    to: mpsc::Sender<Told>,
}

/// One watch. Dropping it ends it.
pub(crate) struct Tap {
    id: i64,
    told: mpsc::Receiver<Told>,
    taps: Arc<Taps>,
}

impl Tap {
    /// What comes next.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> Told {
        self.told.recv().await.unwrap_or_else(|| {
            Told::Cut(Arc::new(Error::unavailable("the watch was cut because its reader was too slow")))
        })
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut state = self.taps.lock();
        if state.open.remove(&self.id).is_some_and(|entry| entry.sent) {
            state.dropped.push(self.id);
            drop(state);
            self.taps.changed.notify_one();
        }
    }
}

impl Taps {
    /// Wants a watch; it is created as soon as there is a stream.
    pub(crate) fn open(self: &Arc<Self>, range: Range, from: i64) -> Tap {
        let (to, told) = mpsc::channel(BACKLOG);
        let mut state = self.lock();
        // An id is never used twice, so that nothing late can be taken for another watch.
        state.last += 1;
        let id = state.last;
        state.open.insert(id, Entry { wanted: Wanted { id, range, from }, sent: false, to });
        drop(state);
        self.changed.notify_one();
        Tap { id, told, taps: Arc::clone(self) }
    }

    /// Returns when something may have been opened or dropped.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The next watch to create, which counts as sent.
    pub(crate) fn next_wanted(&self) -> Option<Wanted> {
        let mut state = self.lock();
        let entry = state.open.values_mut().find(|entry| !entry.sent)?;
        entry.sent = true;
        Some(entry.wanted.clone())
    }

    /// The next watch to cancel.
    pub(crate) fn next_dropped(&self) -> Option<i64> {
        self.lock().dropped.pop()
    }

    /// Whether no watch was sent.
    pub(crate) fn is_idle(&self) -> bool {
        !self.lock().open.values().any(|entry| entry.sent)
    }

    /// The watch is to be created anew, on the next stream.
    pub(crate) fn want_again(&self, id: i64) {
        if let Some(entry) = self.lock().open.get_mut(&id) {
            entry.sent = false;
        }
    }

    /// Why nobody gets a watch at present, where that is known.
    pub(crate) fn absent(&self) -> Option<Arc<Error>> {
        self.lock().absent.clone()
    }

    /// Tells one tap. Its end, and its being too slow, end it here too.
    pub(crate) fn tell(&self, id: i64, told: Told) {
        let ends = matches!(told, Told::Compacted | Told::Cut(_));
        let mut state = self.lock();
        if matches!(told, Told::Created { .. }) {
            state.absent = None;
        }
        let Some(entry) = state.open.get(&id) else { return };
        let slow = entry.to.try_send(told).is_err();
        if ends || slow {
            state.open.remove(&id);
        }
        if slow && !ends {
            state.dropped.push(id);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Tells all taps of the stream how far everything was shown.
    pub(crate) fn tell_progress(&self, revision: i64) {
        let sent: Vec<i64> = self.lock().open.values().filter(|e| e.sent).map(|e| e.wanted.id).collect();
        for id in sent {
            self.tell(id, Told::Progress { revision });
        }
    }

    /// Cuts the taps of the stream that ended; with `all`, also those that wait for one.
    pub(crate) fn cut(&self, cause: &Arc<Error>, all: bool) {
        let mut state = self.lock();
        state.dropped.clear();
        if all {
            state.absent = Some(Arc::clone(cause));
        }
        state.open.retain(|_, entry| {
            let keep = !(all || entry.sent);
            if !keep {
                // A full queue ends with the same meaning: its sender is dropped.
                let _ = entry.to.try_send(Told::Cut(Arc::clone(cause)));
            }
            keep
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range() -> Range {
        Range::Prefix("/a/".into())
    }

    fn cause() -> Arc<Error> {
        Arc::new(Error::unavailable("gone"))
    }

    #[tokio::test]
    async fn a_cut_ends_the_taps_of_the_stream_and_leaves_those_that_wait_for_one() {
        let taps = Arc::new(Taps::default());
        let mut on_stream = taps.open(range(), 0);
        assert_eq!(taps.next_wanted().map(|w| w.id), Some(on_stream.id));
        let waiting = taps.open(range(), 5);
        taps.cut(&cause(), false);
        assert!(matches!(on_stream.next().await, Told::Cut(_)));
        assert_eq!(taps.next_wanted(), Some(Wanted { id: waiting.id, range: range(), from: 5 }));
    }

    #[tokio::test]
    async fn a_dropped_tap_is_cancelled_once_and_its_id_never_comes_again() {
        let taps = Arc::new(Taps::default());
        let tap = taps.open(range(), 0);
        let id = tap.id;
        taps.next_wanted();
        drop(tap);
        assert_eq!((taps.next_dropped(), taps.next_dropped()), (Some(id), None));
        assert!(taps.is_idle());
        assert_ne!(taps.open(range(), 0).id, id);
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_is_cut_and_hinders_nobody() {
        let taps = Arc::new(Taps::default());
        let mut slow = taps.open(range(), 0);
        let id = taps.next_wanted().unwrap().id;
        for revision in 0..=BACKLOG as i64 {
            taps.tell(id, Told::Progress { revision });
        }
        assert_eq!(taps.next_dropped(), Some(id));
        for _ in 0..BACKLOG {
            assert!(matches!(slow.next().await, Told::Progress { .. }));
        }
        assert!(matches!(slow.next().await, Told::Cut(_)));
    }
}
