//! What one side shows of a view, and what it has shown and dropped.

use std::{sync::Arc, time::Duration};

use meshwork_core::{InstanceId, Instances, Snapshot, Staleness};
use tokio::time::Instant;

use super::recent::Recent;

/// A side that has neither answered nor failed is waited for this long, so that a start does not show half
/// of a union for a moment.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// Every backend notices within this time that its registry went away. What the other side dropped before
/// that, a stale side has confirmed since.
pub(super) const NOTICE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Face {
    /// Whether there is somebody who finds.
    pub(super) finds: bool,
    /// Since when it is watched.
    pub(super) followed: Option<Instant>,
    pub(super) staleness: Staleness,
    pub(super) shown: Arc<Instances>,
    pub(super) held: Arc<[InstanceId]>,
    /// When it dropped whom, unless somebody has shown them again since.
    pub(super) dropped: Recent<Instant>,
}

impl Face {
    pub(super) fn new(finds: bool) -> Self {
        Self {
            finds,
            followed: None,
            staleness: Staleness::Pending { cause: None },
            shown: Arc::new([]),
            held: Arc::new([]),
            dropped: Recent::default(),
        }
    }

    /// Begins or ends to watch it; one that is not watched knows nothing.
    pub(super) fn follow(&mut self, wanted: bool, now: Instant) {
        if self.followed.is_some() == (wanted && self.finds) {
            return;
        }
        *self = Self::new(self.finds);
        self.followed = (wanted && self.finds).then_some(now);
    }

    pub(super) fn is_known(&self) -> bool {
        !self.staleness.is_pending()
    }

    /// Until when it is waited for.
    pub(super) fn awaited_until(&self) -> Option<Instant> {
        let is_silent = matches!(self.staleness, Staleness::Pending { cause: None });
        self.followed.filter(|_| is_silent).map(|since| since + PATIENCE)
    }

    pub(super) fn is_awaited(&self, now: Instant) -> bool {
        self.awaited_until().is_some_and(|until| now < until)
    }

    /// When its answer was the registry's word for the last time, and how old it was then.
    pub(super) fn stale_since(&self) -> Option<(Instant, Duration)> {
        match &self.staleness {
            Staleness::Stale { since, age, .. } => Some((*since, *age)),
            _ => None,
        }
    }

    /// Whether a drop at `at`, by the other side, is news to this one: it is stale, and has not confirmed
    /// the instance since.
    pub(super) fn is_outlived(&self, at: Instant) -> bool {
        self.stale_since().is_some_and(|(since, age)| at + NOTICE + age > since)
    }

    pub(super) fn take(&mut self, view: &Snapshot) {
        self.staleness = view.staleness().clone();
        self.shown = Arc::clone(view.value());
        self.held = Arc::clone(view.held());
    }

    pub(super) fn holds(&self, id: &InstanceId) -> bool {
        !self.held.is_empty() && self.held.binary_search(id).is_ok()
    }
}
