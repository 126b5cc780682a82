//! Provider processes on a real etcd.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use meshwork_testkit::{etcd::Etcd, ports::Port, truth::eventually};
use meshwork_tests::{
    Result, SERVICE,
    provider::{Plan, Provider},
    records,
};

/// The least time to live that is of use: a dead process stays listed for about so long.
pub(crate) const TTL: Duration = Duration::from_secs(3);
/// How long a provider may take to stop.
const STOP: Duration = Duration::from_secs(30);

/// One place of the fleet: an address, and the process that is there now.
pub(crate) struct Place {
    pub(crate) port: Port,
    pub(crate) provider: Provider,
    ttl: Duration,
}

/// Providers and their registry.
pub(crate) struct Fleet {
    pub(crate) etcd: Etcd,
    pub(crate) places: Vec<Place>,
    actor: PathBuf,
}

// === impl Fleet ===

impl Fleet {
    /// Starts etcd, and a provider for each of the times to live.
    pub(crate) async fn start(actor: &Path, ttls: &[Duration]) -> Result<Self> {
        let etcd = Etcd::single().start().await.map_err(|error| format!("{error:?}"))?;
        let mut fleet = Self { etcd, places: Vec::new(), actor: actor.to_owned() };
        for ttl in ttls {
            let port = Port::claim()?;
            let provider = fleet.plan(&port, *ttl).start(actor).await?;
            fleet.places.push(Place { port, provider, ttl: *ttl });
        }
        Ok(fleet)
    }

    fn plan(&self, port: &Port, ttl: Duration) -> Plan {
        let ttl = format!("{}s", ttl.as_secs());
        Plan::provider().on(port).etcd(&self.etcd.endpoints()).config("registry.etcd.lease_ttl", ttl)
    }

    /// A new process on the address of one that was killed.
    pub(crate) async fn again(&mut self, place: usize) -> Result<()> {
        let Place { port, ttl, .. } = &self.places[place];
        let provider = self.plan(port, *ttl).start(&self.actor).await?;
        self.places[place].provider = provider;
        Ok(())
    }

    /// The ids of the processes that live.
    pub(crate) fn living(&self) -> BTreeSet<String> {
        let living = self.places.iter().filter(|place| place.provider.process().is_running());
        living.map(|place| place.provider.id().to_owned()).collect()
    }

    /// Waits until etcd holds the records and leases of the living and nothing else.
    pub(crate) async fn truth(&self, limit: Duration) -> Result<()> {
        let living = self.living();
        let told = format!("etcd holds one record and one lease for each of {} processes", living.len());
        let outcome = eventually(limit, &told, || async {
            let announced = records::announced(&self.etcd, SERVICE).await;
            let leases = records::leases(&self.etcd).await;
            announced.is_ok_and(|ids| ids == living) && leases.is_ok_and(|ids| ids.len() == living.len())
        })
        .await;
        if let Err(error) = outcome {
            let announced = records::announced(&self.etcd, SERVICE).await?;
            let leases = records::leases(&self.etcd).await?;
            return Err(
                format!("{error}: living {living:?}, announced {announced:?}, leases {leases:?}").into()
            );
        }
        Ok(())
    }

    /// Stops every process that lives; says which one did not stop cleanly.
    pub(crate) async fn stop(&self) -> Result<()> {
        for place in self.places.iter().filter(|place| place.provider.process().is_running()) {
            let stopped = place.provider.stop(STOP).await?;
            if stopped.code != 0 || !stopped.faults.is_empty() {
                return Err(format!("provider {} stopped with {stopped:?}", place.provider.id()).into());
            }
        }
        Ok(())
    }
}
