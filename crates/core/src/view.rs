//! A value together with how sure we are of it.

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{Error, Instance, InstanceId};

/// A set of instances, sorted by id.
pub type Instances = [Arc<Instance>];

/// The view of a set of instances.
pub type Snapshot = View<Instances>;

/// How sure we are that a value is the truth.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Staleness {
    /// Nothing was ever read; the value is empty, which does not mean that there is nothing.
    Pending {
        /// What the last attempt met, if there was one.
        cause: Option<Arc<Error>>,
    },
    /// The value is what the registry says.
    Fresh,
    /// The registry cannot be asked; the value is the last good one.
    Stale {
        /// Since when.
        since: Instant,
        /// How old the value already was then (a snapshot from disk); zero when it was Fresh.
        age: Duration,
        /// Why.
        cause: Arc<Error>,
    },
}

impl Staleness {
    /// Whether it is `Fresh`.
    pub fn is_fresh(&self) -> bool {
        matches!(self, Self::Fresh)
    }

    /// Whether it is `Pending`.
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::Pending { .. })
    }

    /// The error behind `Pending` or `Stale`.
    pub fn cause(&self) -> Option<&Arc<Error>> {
        match self {
            Self::Pending { cause } => cause.as_ref(),
            Self::Fresh => None,
            Self::Stale { cause, .. } => Some(cause),
        }
    }
}

/// A value, its generation, and how sure we are of it. Cloning costs a few reference counts.
pub struct View<T: ?Sized> {
    generation: u64,
    staleness: Staleness,
    value: Arc<T>,
    held: Arc<[InstanceId]>,
}

impl<T: ?Sized> View<T> {
    /// A view. `generation` grows with every publication of one watch.
    pub fn new(generation: u64, staleness: Staleness, value: Arc<T>) -> Self {
        Self { generation, staleness, value, held: Arc::new([]) }
    }

    /// The same view with the ids that are kept although the registry no longer lists them.
    #[must_use]
    pub fn with_held(mut self, held: Arc<[InstanceId]>) -> Self {
        self.held = held;
        self
    }

    /// Grows with every publication of one watch; equal generations of one watch are the same view.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// How sure we are.
    pub fn staleness(&self) -> &Staleness {
        &self.staleness
    }

    /// The value; empty while `Pending`.
    pub fn value(&self) -> &Arc<T> {
        &self.value
    }

    /// The value, unless nothing was ever read: empty is not unknown.
    pub fn known(&self) -> Option<&Arc<T>> {
        (!self.staleness.is_pending()).then_some(&self.value)
    }

    /// Ids that are kept although the registry no longer lists them, sorted.
    pub fn held(&self) -> &Arc<[InstanceId]> {
        &self.held
    }
}

impl<T: ?Sized> Clone for View<T> {
    fn clone(&self) -> Self {
        Self {
            generation: self.generation,
            staleness: self.staleness.clone(),
            value: Arc::clone(&self.value),
            held: Arc::clone(&self.held),
        }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for View<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("View")
            .field("generation", &self.generation)
            .field("staleness", &self.staleness)
            .field("value", &self.value)
            .field("held", &self.held)
            .finish()
    }
}
