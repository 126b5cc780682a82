//! The registry inside one process.

use std::time::Duration;

use meshwork_core::{Backend, Instance};
use meshwork_registry::Memory;
use meshwork_testkit::conformance::{Counted, Deed, Limits, Malformed, Rig, Undone};

/// One store, which all processes share by clone.
pub(super) struct InMemory(Memory);

impl InMemory {
    pub(super) fn new() -> Self {
        Self(Memory::new())
    }
}

impl Rig for InMemory {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn backend(&self) -> Box<dyn Backend> {
        Box::new(self.0.clone())
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::of_ttl(Duration::from_millis(100));
        limits.noticed = Duration::from_secs(1);
        limits
    }

    async fn act(&self, deed: Deed) -> Result<(), Undone> {
        let memory = &self.0;
        match deed {
            Deed::Stop => memory.fail(true),
            Deed::Start => memory.fail(false),
            Deed::Freeze => memory.partition(true),
            Deed::Thaw => memory.partition(false),
            Deed::Wipe => memory.clear(),
            Deed::Forget(instance) | Deed::Erase(instance) => memory.forget(&instance.service, &instance.id),
            Deed::Put(instance) => memory.put(Instance::clone(&instance)),
            Deed::Spoil(instance) => memory.spoil(&instance.service, &instance.id),
            Deed::Plant(Malformed::Nonsense, service, id) => memory.spoil(&service, &id),
            Deed::Plant(..) => {
                return Err(Undone::cannot("records in memory are values: they have no form to be wrong in"));
            }
            Deed::PutForeign(..) => return Err(Undone::cannot("other software is not in this process")),
            _ => return Err(Undone::cannot("there is one store, inside this process")),
        }
        Ok(())
    }

    fn counted(&self) -> Result<Counted, Undone> {
        Ok(Counted::of(&self.0.driven()))
    }
}
