//! What a dual registry counts, and where its sides disagree: plain atomics and swapped pointers, read
//! without a lock.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use meshwork_core::{InstanceId, Query, Staleness};
use tokio::time::Instant;

use super::Side;
use crate::{Count, Stats};

/// How two sides that were both asked differ in an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Difference {
    /// Only this side shows it, and the other shows nobody at its addresses.
    Only(Side),
    /// Both show it, with different records.
    Record,
}

/// An instance on which the sides have disagreed for longer than [`Policy::disagreement`](super::Policy).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disagreement {
    /// Which.
    pub id: InstanceId,
    /// How.
    pub difference: Difference,
    /// Since when.
    pub since: Instant,
}

/// How the sides of one view stand.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Standing {
    /// What is asked for.
    pub query: Query,
    /// How sure each side is, the primary first; `None` = it is not watched.
    pub staleness: [Option<Staleness>; 2],
    /// How many instances each side shows.
    pub instances: [usize; 2],
    /// On how many instances the sides have disagreed for long.
    pub disagreeing: usize,
    /// The first 256 of them, sorted by id.
    pub disagreements: Arc<[Disagreement]>,
}

/// What one side of a dual registry counts.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct SideStats {
    /// Registrations there now (wished, whether announced or not).
    pub registrations: Count,
    /// Registrations that are announced there now.
    pub live: Count,
    /// Registrations that were lost there.
    pub lost: Count,
}

/// What a [`Dual`](super::Dual) counts since it was made.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct DualStats {
    /// Views published.
    pub views: Count,
    /// Instances, of all views, on which the sides have disagreed for long, now.
    pub disagreeing: Count,
    /// How often such a disagreement was found.
    pub disagreements: Count,
    /// The primary side.
    pub primary: SideStats,
    /// The secondary side.
    pub secondary: SideStats,
    /// Of the topics; their observations are counted there.
    pub(crate) topics: Arc<Stats>,
    standings: ArcSwap<Vec<Weak<ArcSwap<Standing>>>>,
    writing: Mutex<()>,
}

impl DualStats {
    /// What one side counts.
    pub fn side(&self, side: Side) -> &SideStats {
        match side {
            Side::Primary => &self.primary,
            Side::Secondary => &self.secondary,
        }
    }

    /// How the sides of each live view stand, sorted by query.
    pub fn standings(&self) -> Vec<Arc<Standing>> {
        let mut all: Vec<_> =
            self.standings.load().iter().filter_map(Weak::upgrade).map(|one| one.load_full()).collect();
        all.sort_by(|a, b| a.query.cmp(&b.query));
        all
    }

    /// Lists a view as long as the answer lives.
    pub(super) fn list(&self, standing: Standing) -> Arc<ArcSwap<Standing>> {
        let listed = Arc::new(ArcSwap::from_pointee(standing));
        let _one_writer = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.standings.load();
        let living = known.iter().filter(|one| one.strong_count() > 0).cloned();
        self.standings.store(Arc::new(living.chain([Arc::downgrade(&listed)]).collect()));
        listed
    }
}
