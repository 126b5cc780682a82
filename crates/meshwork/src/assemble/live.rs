//! The keys of a registry's table that are live: what applies a new value to the opened registry.

use std::sync::Arc;

use meshwork_config::{Config, RegistryTable};
use meshwork_registry::{DualConfig, Steering};
#[cfg(feature = "etcd")]
use meshwork_registry_etcd::{Endpoints, EtcdConfig};

use crate::{
    RunError,
    live::{Apply, LivePart},
};

/// An opened table, its live keys, and what judges them.
struct LiveTable<F> {
    name: Box<str>,
    kind: Box<str>,
    keys: Vec<String>,
    judge: F,
}

impl<F> LiveTable<F>
where
    F: Fn(&RegistryTable) -> Result<Apply, RunError> + Send + Sync + 'static,
{
    fn part(table: &RegistryTable, keys: &[&str], judge: F) -> Arc<dyn LivePart> {
        let keys = keys.iter().map(|key| table.key(key)).collect();
        Arc::new(Self { name: table.name().into(), kind: table.kind().into(), keys, judge })
    }
}

impl<F> LivePart for LiveTable<F>
where
    F: Fn(&RegistryTable) -> Result<Apply, RunError> + Send + Sync + 'static,
{
    fn follows(&self, key: &str) -> bool {
        self.keys.iter().any(|live| live == key)
    }

    fn judge(&self, newer: &Config) -> Result<Option<Apply>, RunError> {
        // A registry that was taken away stays as it is until the process is started again.
        let table = newer.registry().table(&self.name).filter(|table| table.kind() == &*self.kind);
        table.map(|table| (self.judge)(&table)).transpose()
    }
}

/// Where a dual announces, and what it finds.
pub(super) fn dual(table: &RegistryTable, steering: Steering) -> Arc<dyn LivePart> {
    LiveTable::part(table, &["write", "read"], move |table| {
        let (policy, steering) = (table.extract::<DualConfig>()?.policy(), steering.clone());
        Ok(Box::new(move || {
            // First what is found: a side that is not written any more must not be read any more.
            steering.read(policy.read);
            steering.write(policy.write);
        }))
    })
}

/// The members of an etcd cluster.
#[cfg(feature = "etcd")]
pub(super) fn etcd(table: &RegistryTable, endpoints: Endpoints) -> Arc<dyn LivePart> {
    use meshwork_core::ErrorChain;

    LiveTable::part(table, &["endpoints"], move |table| {
        let config: EtcdConfig = table.extract()?;
        config.check().map_err(|error| table.error("endpoints", ErrorChain(&error).to_string()))?;
        let endpoints = endpoints.clone();
        Ok(Box::new(move || {
            if let Err(error) = endpoints.replace(config.endpoints) {
                tracing::warn!(error = %ErrorChain(&error), "etcd endpoints kept as they were");
            }
        }))
    })
}
