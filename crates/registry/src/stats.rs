//! What the drivers count: plain atomics, read at scrape time.

use std::{
    collections::VecDeque,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use meshwork_core::{InstanceId, Query, Refusal, RefusalKind};

/// How many refusals are kept for people to read.
const LISTED: usize = 64;

/// All refusal classes, in the order of their counters.
const KINDS: [RefusalKind; 7] = [
    RefusalKind::TooLarge,
    RefusalKind::Syntax,
    RefusalKind::Schema,
    RefusalKind::Field,
    RefusalKind::Address,
    RefusalKind::Misplaced,
    RefusalKind::Owner,
];

/// A count that only its owner raises or sets.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// The count now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Relaxed);
    }

    pub(crate) fn less(&self, fewer: u64) {
        self.0.fetch_sub(fewer, Relaxed);
    }
}

/// A record that was not taken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RefusedRecord {
    /// What was asked for when it was read.
    pub query: Query,
    /// The instance it concerns, when known.
    pub id: Option<InstanceId>,
    /// Where it stands: a key, a path.
    pub record: Box<str>,
    /// Why it was not taken.
    pub reason: Refusal,
}

/// What the drivers of one backend count since it was made.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Subscriptions that live now.
    pub subscriptions: Count,
    /// Attempts to subscribe, first and again.
    pub subscribed: Count,
    /// Subscriptions that ended with an error.
    pub subscriptions_lost: Count,
    /// Complete sets read.
    pub sets: Count,
    /// Deltas read.
    pub deltas: Count,
    /// Views published.
    pub views: Count,
    /// Registrations that live now (wished, whether announced or not).
    pub registrations: Count,
    /// Registrations that are announced now.
    pub live: Count,
    /// Attempts to claim.
    pub claims: Count,
    /// Claims that were lost after they had been held.
    pub claims_lost: Count,
    /// Ids given up because another process used them.
    pub conflicts: Count,
    /// Times that the shared work of the backend ended with an error.
    pub drives_lost: Count,
    /// Observations of clients that found the queue of their view full.
    pub evidence_dropped: Count,
    refused: [Count; KINDS.len()],
    last: Mutex<VecDeque<RefusedRecord>>,
}

impl Stats {
    /// How many records of this class were refused. A bad record that stays as it is counts once.
    pub fn refused(&self, kind: RefusalKind) -> u64 {
        KINDS.iter().position(|known| *known == kind).map_or(0, |place| self.refused[place].get())
    }

    /// All refusal classes with their counts.
    pub fn refusals(&self) -> impl Iterator<Item = (RefusalKind, u64)> {
        KINDS.iter().zip(&self.refused).map(|(kind, count)| (*kind, count.get()))
    }

    /// The last refused records, newest last, at most 64.
    pub fn last_refused(&self) -> Vec<RefusedRecord> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(crate) fn refuse(&self, record: RefusedRecord) {
        if let Some(place) = KINDS.iter().position(|known| *known == record.reason.kind()) {
            self.refused[place].add(1);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == LISTED {
            last.pop_front();
        }
        last.push_back(record);
    }
}
