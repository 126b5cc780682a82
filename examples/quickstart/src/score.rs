//! What the caller counted, by greeter process.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// What a greeter answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Greeting {
    pub(crate) pid: u32,
    pub(crate) zone: String,
    pub(crate) version: String,
}

/// One greeter as the caller saw it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) first: Instant,
    pub(crate) calls: u64,
    recent: Vec<Duration>,
}

/// How many of the latest latencies the median is taken over.
const RECENT: usize = 256;

impl Row {
    /// The median of the latest calls.
    pub(crate) fn p50(&self) -> Duration {
        let mut sorted = self.recent.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied().unwrap_or_default()
    }
}

/// Counts calls; shared by all of them.
#[derive(Default)]
pub(crate) struct Score(Mutex<Counts>);

/// The totals.
#[derive(Clone, Default)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
    pub(crate) first_success: Option<Instant>,
    pub(crate) rows: BTreeMap<u32, Row>,
}

impl Score {
    fn locked(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one call.
    pub(crate) fn count(&self, answer: Result<Greeting, String>, took: Duration) {
        let mut counts = self.locked();
        counts.calls += 1;
        match answer {
            Ok(greeting) => {
                let now = Instant::now();
                counts.first_success.get_or_insert(now);
                let new = Row { first: now, calls: 0, recent: Vec::with_capacity(RECENT) };
                let row = counts.rows.entry(greeting.pid).or_insert(new);
                if row.recent.len() < RECENT {
                    row.recent.push(took);
                } else {
                    row.recent[row.calls as usize % RECENT] = took;
                }
                row.calls += 1;
            }
            Err(error) => {
                counts.failed += 1;
                counts.first_failure.get_or_insert(error);
            }
        }
    }

    /// A copy of the totals.
    pub(crate) fn read(&self) -> Counts {
        self.locked().clone()
    }

    /// When the process `pid` first answered.
    pub(crate) fn first_answer(&self, pid: u32) -> Option<Instant> {
        self.locked().rows.get(&pid).map(|row| row.first)
    }
}
