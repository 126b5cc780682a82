//! A backend together with the drivers that every backend shares.

use std::{fmt, sync::Arc};

use meshwork_core::{
    Announcer, Discovery, Instance, Query, Registration, RegistrationState, Registry, Source, Watch, Wish,
};
use tokio::sync::watch;

use crate::DriverOptions;

/// A backend and the drivers over it: one subscription per query, one keeper per registration, and the
/// one task that drives the backend while any of them lives.
///
/// Clones share everything.
pub struct Driven<B> {
    backend: Arc<B>,
    options: DriverOptions,
}

impl<B> Driven<B> {
    /// Wraps `backend`. Does nothing until the first watch or registration.
    pub fn new(backend: B, options: DriverOptions) -> Self {
        Self { backend: Arc::new(backend), options }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<B> {
        &self.backend
    }

    /// The settings of the drivers.
    pub fn options(&self) -> &DriverOptions {
        &self.options
    }
}

impl<B: Source> Driven<B> {
    /// The finding side, for [`Parts`](meshwork_core::Parts).
    pub fn discovery(&self) -> Arc<dyn Discovery> {
        Arc::new(self.clone())
    }
}

impl<B: Announcer> Driven<B> {
    /// The announcing side, for [`Parts`](meshwork_core::Parts).
    pub fn registry(&self) -> Arc<dyn Registry> {
        Arc::new(self.clone())
    }
}

impl<B: Source> Discovery for Driven<B> {
    fn watch(&self, _query: &Query) -> Watch {
        Watch::fixed(Arc::new([]))
    }
}

impl<B: Announcer> Registry for Driven<B> {
    fn register(&self, instance: Instance) -> Registration {
        let wish = Arc::new(watch::Sender::new(Wish { instance: Arc::new(instance), departure: None }));
        let (_, seen) = watch::channel(RegistrationState::Pending { cause: None });
        Registration::new(wish, seen)
    }
}

impl<B> Clone for Driven<B> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend), options: self.options.clone() }
    }
}

impl<B> fmt::Debug for Driven<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driven").finish_non_exhaustive()
    }
}
