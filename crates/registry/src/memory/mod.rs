//! A registry inside one process, for tests: shared by clone, with faults to order.

mod announcer;
mod catalog;
mod source;
mod store;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use meshwork_core::{Backend, Drive, Error, Instance, InstanceId, Parts, ServiceName};
use serde::Deserialize;

use crate::{Driven, DriverOptions, catalog::SharedCatalog};
use store::Store;

pub use announcer::MemoryLease;

/// After this long without an answer a subscription or a claim takes the registry for lost. (A real
/// registry takes seconds; tests should not.)
const SILENCE: Duration = Duration::from_millis(50);

/// How many there were in this process.
static NUMBER: AtomicU64 = AtomicU64::new(1);

/// The settings of [`Memory`] as a table of the configuration: none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MemoryConfig {}

/// A registry inside one process. Clones share it; whoever announces here is found here.
///
/// It goes through the same drivers as any other registry, with short delays, and fails to order:
///
/// ```
/// # use meshwork_core::{Backend, Instance, Query, ServiceName};
/// # use meshwork_registry::Memory;
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let memory = Memory::new();
/// let parts = memory.clone().open()?;
/// let users = ServiceName::new("users").unwrap();
/// let mut instance = Instance::new(users.clone());
/// instance.endpoints.push("http://127.0.0.1:8080".parse()?);
///
/// let registration = parts.registry.unwrap().register(instance);
/// registration.live().await.unwrap();
/// let mut watch = parts.discovery.unwrap().watch(&Query::new(users));
/// assert_eq!(watch.ready().await.value().len(), 1);
///
/// memory.fail(true);
/// while watch.changed().await.staleness().is_fresh() {}
/// assert_eq!(watch.latest().value().len(), 1, "the last good set stands");
/// # Ok::<(), meshwork_core::Error>(())
/// # }).unwrap();
/// ```
#[derive(Clone)]
pub struct Memory {
    store: Arc<Store>,
    /// Two that differ in it are two registries.
    number: u64,
    options: DriverOptions,
}

impl Memory {
    /// An empty registry, with driver delays fit for tests: 100 ms between attempts at the most, half a
    /// second for a request.
    pub fn new() -> Self {
        let mut options = DriverOptions::default().with_ttl(Duration::from_millis(100));
        options.healing.own_loss = Duration::from_millis(10);
        options.healing.first = Duration::from_millis(10);
        options.healing.cap = Duration::from_millis(50);
        options.request_timeout = Duration::from_millis(500);
        Self::with_options(options)
    }

    /// An empty registry with drivers of these settings.
    pub fn with_options(options: DriverOptions) -> Self {
        let number = NUMBER.fetch_add(1, Relaxed);
        Self { store: Arc::default(), number, options }
    }

    /// The drivers over it, new ones each time.
    pub fn driven(&self) -> Driven<Self> {
        Driven::new(self.clone(), self.options.clone())
    }

    /// What is announced now, sorted by id: the truth, whatever views say.
    pub fn instances(&self, service: &ServiceName) -> Vec<Arc<Instance>> {
        self.store.instances(service)
    }

    /// Writes a record as somebody else would: bound to no claim, of any content.
    pub fn put(&self, instance: Instance) {
        self.store.put_unbound(Arc::new(instance));
    }

    /// The record is gone, as when it ran out or was deleted by hand. A living owner puts it back.
    pub fn forget(&self, service: &ServiceName, id: &InstanceId) {
        self.store.forget(service, id);
    }

    /// The process of this instance is dead for the registry: its record is gone, and nothing it asks is
    /// answered any more.
    pub fn kill(&self, service: &ServiceName, id: &InstanceId) {
        self.store.kill(service, id);
    }

    /// The record cannot be read any more: readers refuse it, and keep the last good one. Where none stood, there is
    /// one now that cannot be read.
    pub fn spoil(&self, service: &ServiceName, id: &InstanceId) {
        self.store.spoil(service, id);
    }

    /// All records and claims are gone, as when a store was wiped. Living owners put theirs back.
    pub fn clear(&self) {
        self.store.clear();
    }

    /// From now on each request fails at once, and subscriptions end; or not any more.
    pub fn fail(&self, fails: bool) {
        self.store.set_faults(|faults| faults.failing = fails);
    }

    /// From now on nothing is answered, as behind a cut network: requests hang until their time-out,
    /// subscriptions fall silent and end after 50 ms; or not any more.
    pub fn partition(&self, is_cut: bool) {
        self.store.set_faults(|faults| faults.partitioned = is_cut);
    }

    /// From now on each answer comes this much later.
    pub fn lag(&self, lag: Duration) {
        self.store.set_faults(|faults| faults.lag = lag);
    }

    /// From now on readers are told that there is nothing, though nothing was removed; or not any more.
    pub fn answer_empty(&self, is_empty: bool) {
        self.store.set_faults(|faults| faults.empty = is_empty);
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drive for Memory {}

impl Backend for Memory {
    fn open(&self) -> Result<Parts, Error> {
        let driven = self.driven();
        let parts = Parts::new(format!("memory {} of this process", self.number));
        let store = Arc::clone(&self.store);
        let services =
            SharedCatalog::new("memory catalog", move |writer| catalog::follow(writer, Arc::clone(&store)));
        let parts = parts.with_registry(driven.registry()).with_discovery(driven.discovery());
        Ok(parts.with_catalog(Arc::new(services)))
    }
}

impl Backend for MemoryConfig {
    fn open(&self) -> Result<Parts, Error> {
        Memory::new().open()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("options", &self.options).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
