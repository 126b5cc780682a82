//! The announcing side of a memory registry.

use std::sync::Arc;

use meshwork_core::{Announcer, Error, Instance, InstanceId, encode};
use tokio::time::{self, Instant};

use super::{Memory, SILENCE, store::Store};

/// What a memory registry holds for one registration. It ends when it is dropped, as a lease does that nobody keeps
/// any more: a registration whose runtime ended leaves nothing.
#[derive(Debug)]
pub struct MemoryLease {
    store: Arc<Store>,
    number: u64,
    written: Arc<Instance>,
}

impl Drop for MemoryLease {
    fn drop(&mut self) {
        self.store.revoke(self.number);
    }
}

impl Announcer for Memory {
    type Claim = MemoryLease;

    async fn claim(&self, instance: &Instance, claim: &mut Option<MemoryLease>) -> Result<(), Error> {
        let written = readable(instance)?;
        let noted = claim.get_or_insert_with(|| MemoryLease {
            store: Arc::clone(&self.store),
            number: self.store.new_lease(),
            written: Arc::clone(&written),
        });
        self.answer("claiming", &instance.id).await?;
        if !self.store.has_lease(noted.number) {
            // A lease that ran out is never granted again: whatever was under it is gone.
            self.store.revoke(noted.number);
            noted.number = self.store.new_lease();
            self.store.grant(noted.number);
        }
        noted.written = written;
        self.store.put(&noted.written, noted.number)?;
        self.late().await;
        Ok(())
    }

    async fn hold(&self, claim: &mut MemoryLease) -> Error {
        let mut ticks = self.store.ticks();
        let id = &claim.written.id;
        let mut silent = None;
        loop {
            ticks.borrow_and_update();
            let faults = self.store.faults();
            if faults.failing {
                return unavailable("holding", id, "the memory registry fails by order");
            }
            if faults.partitioned || self.store.is_dead(id) {
                let since = *silent.get_or_insert_with(Instant::now);
                if time::timeout_at(since + SILENCE, ticks.changed()).await.is_err() {
                    return unavailable("holding", id, "the memory registry does not answer by order");
                }
                continue;
            }
            silent = None;
            match self.store.own(&claim.written.service, id) {
                Some((standing, lease)) if standing == claim.written && lease == Some(claim.number) => {}
                Some(_) => return unavailable("holding", id, "its record was changed by somebody else"),
                None => return unavailable("holding", id, "its record is gone"),
            }
            // The store lives as long as this registry: its ticks never end.
            let _ = ticks.changed().await;
        }
    }

    async fn update(&self, claim: &mut MemoryLease, instance: &Instance) -> Result<(), Error> {
        let written = readable(instance)?;
        self.answer("updating", &instance.id).await?;
        self.store.put(&written, claim.number)?;
        claim.written = written;
        self.late().await;
        Ok(())
    }

    async fn release(&self, claim: MemoryLease) -> Result<(), Error> {
        self.answer("releasing", &claim.written.id).await?;
        drop(claim);
        self.late().await;
        Ok(())
    }
}

impl Memory {
    /// Waits until the registry answers at all.
    async fn answer(&self, doing: &str, id: &InstanceId) -> Result<(), Error> {
        let mut ticks = self.store.ticks();
        loop {
            ticks.borrow_and_update();
            let faults = self.store.faults();
            if faults.failing {
                return Err(unavailable(doing, id, "the memory registry fails by order"));
            }
            if !faults.partitioned && !self.store.is_dead(id) {
                return Ok(());
            }
            // As in `hold`. The drivers put an end to the wait.
            let _ = ticks.changed().await;
        }
    }

    async fn late(&self) {
        let lag = self.store.faults().lag;
        if !lag.is_zero() {
            time::sleep(lag).await;
        }
    }
}

/// What readers of a real registry would refuse is not written here either.
fn readable(instance: &Instance) -> Result<Arc<Instance>, Error> {
    match encode(instance) {
        Ok(_) => Ok(Arc::new(instance.clone())),
        Err(refusal) => {
            Err(Error::invalid(format!("writing the record of `{}`", instance.id)).with_source(refusal))
        }
    }
}

fn unavailable(doing: &str, id: &InstanceId, why: &'static str) -> Error {
    Error::unavailable(format!("{doing} `{id}`")).with_source(why)
}
