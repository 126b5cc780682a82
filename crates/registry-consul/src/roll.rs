//! Who watches what, so that somebody looks now and then whether it may still be read.
//!
//! Consul wakes no blocking query when a policy is edited, and the streaming backend of a client agent then
//! says that there is nobody. So each lane enters what it asks for, and the drive puts a small question about
//! one known instance to the servers, past every cache. What it suspects, the lane verifies itself.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::asked::Asked;

/// How many lanes one look asks about. Where one is refused, the look goes on with the next ones.
const AT_ONCE: usize = 4;
/// An answer this young proves enough.
const YOUNG: Duration = Duration::from_secs(1);

/// All lanes of one agent, open or waiting for their turn.
#[derive(Default)]
pub(crate) struct Roll(Mutex<Entries>);

#[derive(Default)]
struct Entries {
    next: u64,
    all: BTreeMap<u64, Arc<Entry>>,
}

/// What one lane asks for.
pub(crate) struct Entry {
    place: u64,
    path: String,
    datacenter: Option<String>,
    asked: Arc<Asked>,
    seen: Mutex<Seen>,
    /// Told when the lane is to ask anew, whatever it waits for.
    doubted: Notify,
}

/// What the last good answer said.
struct Seen {
    at: Instant,
    /// A service that it listed, if the agent has permissions at all.
    sample: Option<String>,
}

impl Roll {
    /// Enters a lane; it is on the roll until it is struck off.
    pub(crate) fn enter(&self, path: String, datacenter: Option<String>, asked: Arc<Asked>) -> Arc<Entry> {
        let mut entries = lock(&self.0);
        let place = entries.next;
        entries.next += 1;
        let seen = Mutex::new(Seen { at: Instant::now(), sample: None });
        let entry = Arc::new(Entry { place, path, datacenter, asked, seen, doubted: Notify::new() });
        entries.all.insert(place, Arc::clone(&entry));
        entry
    }

    pub(crate) fn strike(&self, entry: &Entry) {
        lock(&self.0).all.remove(&entry.place);
    }

    /// How many lanes there are.
    pub(crate) fn len(&self) -> usize {
        lock(&self.0).all.len()
    }

    /// The next lanes to ask about, which count as heard of from now on.
    pub(crate) fn silent(&self, now: Instant) -> Vec<(Arc<Entry>, String)> {
        let mut silent: Vec<_> = lock(&self.0)
            .all
            .values()
            .filter_map(|entry| {
                let seen = lock(&entry.seen);
                let is_silent = now.saturating_duration_since(seen.at) >= YOUNG;
                Some((seen.at, Arc::clone(entry), seen.sample.clone().filter(|_| is_silent)?))
            })
            .collect();
        silent.sort_by_key(|(at, ..)| *at);
        silent.truncate(AT_ONCE);
        for (_, entry, _) in &silent {
            lock(&entry.seen).at = now;
        }
        silent.into_iter().map(|(_, entry, sample)| (entry, sample)).collect()
    }
}

impl Entry {
    /// A good answer came; it listed `sample`, under an agent that has permissions.
    pub(crate) fn answered(&self, sample: Option<String>) {
        *lock(&self.seen) = Seen { at: Instant::now(), sample };
    }

    /// Waits until the lane is to ask anew.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// Tells the lane to ask anew: its own next answer says how it goes on.
    pub(crate) fn doubt(&self) {
        lock(&self.seen).sample = None;
        self.doubted.notify_one();
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn datacenter(&self) -> Option<&str> {
        self.datacenter.as_deref()
    }

    pub(crate) fn asked(&self) -> &Asked {
        &self.asked
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use meshwork_core::{Query, ServiceName};

    use super::*;
    use crate::config::ConsulConfig;

    #[tokio::test(start_paused = true)]
    async fn those_that_were_silent_for_longest_are_asked_about_in_turn() {
        let roll = Roll::default();
        let query = Query::new(ServiceName::new("users").unwrap());
        let asked = Arc::new(Asked::of(&query, &ConsulConfig::default(), "dev").unwrap());
        let lanes: Vec<_> = (0..6).map(|n| roll.enter(format!("/{n}"), None, Arc::clone(&asked))).collect();
        for lane in &lanes[..5] {
            lane.answered(Some("a".to_owned()));
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let paths = || {
            let silent = roll.silent(Instant::now());
            silent.iter().map(|(entry, _)| entry.path.clone()).collect::<Vec<_>>()
        };
        assert!(paths().is_empty(), "all answered a moment ago");
        tokio::time::advance(YOUNG).await;
        assert_eq!(paths(), ["/0", "/1", "/2", "/3"]);
        assert_eq!(paths(), ["/4"], "who has never listed anybody is not asked about");
        tokio::time::advance(YOUNG).await;
        roll.strike(&lanes[0]);
        assert_eq!(paths(), ["/1", "/2", "/3", "/4"]);
        assert_eq!(roll.len(), 5);
    }
}
