//! A backend together with the drivers that every backend shares.

use std::{fmt, sync::Arc};

use meshwork_core::{Announcer, Discovery, Instance, Query, Registration, Registry, Source, Watch};
use tokio_util::sync::DropGuard;

use crate::{
    DriverOptions, Stats,
    engine::Engine,
    reflector::{self, topic::Topics},
    registrar,
};

/// A backend and the drivers over it: one subscription per query, one keeper per registration, and the
/// one task that drives the backend while any of them lives.
///
/// Clones share everything.
pub struct Driven<B> {
    engine: Arc<Engine<B>>,
    topics: Arc<Topics>,
    /// Goes with the last clone.
    owner: Arc<DropGuard>,
}

impl<B> Driven<B> {
    /// Wraps `backend`. Does nothing until the first watch or registration.
    pub fn new(backend: B, options: DriverOptions) -> Self {
        let engine = Engine::new(backend, options);
        let owner = Arc::new(engine.abandoned.clone().drop_guard());
        Self { engine: Arc::new(engine), topics: Arc::default(), owner }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<B> {
        &self.engine.backend
    }

    /// The settings of the drivers.
    pub fn options(&self) -> &DriverOptions {
        &self.engine.options
    }

    /// What the drivers count.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.engine.stats
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
    fn watch(&self, query: &Query) -> Watch {
        reflector::shell::watch(&self.engine, &self.topics, query)
    }
}

impl<B: Announcer> Registry for Driven<B> {
    fn register(&self, instance: Instance) -> Registration {
        registrar::shell::register(&self.engine, instance)
    }
}

impl<B> Clone for Driven<B> {
    fn clone(&self) -> Self {
        let (engine, topics) = (Arc::clone(&self.engine), Arc::clone(&self.topics));
        Self { engine, topics, owner: Arc::clone(&self.owner) }
    }
}

impl<B> fmt::Debug for Driven<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driven").field("stats", self.stats()).finish_non_exhaustive()
    }
}
