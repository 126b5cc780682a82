//! Real etcd servers.
#![expect(clippy::unwrap_used, reason = "a rig that cannot be run fails its test")]

use std::time::Duration;

use etcd_client::Client;
use meshwork_core::{Backend, Dialect, InstanceId, Native, ServiceName, encode};
use meshwork_registry_etcd::Etcd;
use meshwork_testkit::{
    Error,
    conformance::{Deed, Limits, Linked, Rig, Undone},
    etcd,
    proxy::FaultProxy,
};
use tokio::{runtime::Handle, task};

/// The shortest time to live that the registry takes.
const TTL: Duration = Duration::from_secs(2);
const ENV: &str = "test";

/// One member or several.
pub(super) struct Cluster {
    etcd: etcd::Etcd,
}

impl Cluster {
    pub(super) async fn of(members: usize) -> Self {
        let plan = if members == 1 { etcd::Etcd::single() } else { etcd::Etcd::cluster(members) };
        Self { etcd: plan.start().await.unwrap() }
    }

    fn over(endpoints: impl IntoIterator<Item = String>) -> Etcd {
        Etcd::new(endpoints).with_env(ENV).with_lease_ttl(TTL)
    }

    /// A plain client, new each time: the server may have been away.
    async fn raw(&self) -> Result<Client, Error> {
        let connected = Client::connect(self.etcd.endpoints(), None).await;
        connected.map_err(|e| Error::new("connecting to etcd").with_source(e))
    }

    async fn put(&self, service: &ServiceName, id: &InstanceId, value: Vec<u8>) -> Result<(), Error> {
        let put = self.raw().await?.put(key(service, id), value, None).await;
        put.map(drop).map_err(|e| Error::new("putting a key").with_source(e))
    }

    async fn delete(&self, service: &ServiceName, id: &InstanceId) -> Result<(), Error> {
        let deleted = self.raw().await?.delete(key(service, id), None).await;
        deleted.map(drop).map_err(|e| Error::new("deleting a key").with_source(e))
    }

    async fn revoke(&self, service: &ServiceName, id: &InstanceId) -> Result<(), Error> {
        let mut raw = self.raw().await?;
        let said = |e| Error::new("revoking a lease").with_source(e);
        let lease = raw
            .get(key(service, id), None)
            .await
            .map_err(said)?
            .kvs()
            .first()
            .map(etcd_client::KeyValue::lease);
        match lease {
            Some(lease) if lease != 0 => raw.lease_revoke(lease).await.map(drop).map_err(said),
            // Somebody has ended it already.
            _ => Ok(()),
        }
    }
}

fn key(service: &ServiceName, id: &InstanceId) -> String {
    format!("{}{id}", Native::new("meshwork").unwrap().prefix(ENV, service))
}

impl Rig for Cluster {
    fn name(&self) -> String {
        if self.etcd.members().len() == 1 { "etcd of one".to_owned() } else { "etcd of three".to_owned() }
    }

    fn backend(&self) -> Box<dyn Backend> {
        Box::new(Self::over(self.etcd.endpoints()))
    }

    fn env(&self) -> String {
        ENV.to_owned()
    }

    fn limits(&self) -> Limits {
        Limits::of_ttl(TTL)
    }

    async fn act(&self, deed: Deed) -> Result<(), Undone> {
        match deed {
            Deed::Stop => self.etcd.kill9().await?,
            Deed::Start => {
                self.etcd.start()?;
                self.etcd.ready(Duration::from_secs(30)).await?;
            }
            Deed::Wipe => self.etcd.restart(true).await?,
            Deed::Freeze => self.etcd.freeze().await?,
            Deed::Thaw => self.etcd.thaw(),
            Deed::LoseOne if self.etcd.members().len() == 1 => {
                return Err(Undone::cannot("there is one member"));
            }
            Deed::LoseOne => {
                // Looking for the leader is no work that could move between threads.
                let look = || Handle::current().block_on(self.etcd.leader());
                let leader = task::block_in_place(look)?;
                self.etcd.member(leader).kill9().await?;
            }
            Deed::Forget(instance) => self.revoke(&instance.service, &instance.id).await?,
            Deed::Erase(instance) => self.delete(&instance.service, &instance.id).await?,
            Deed::Put(instance) => {
                self.put(&instance.service, &instance.id, encode(&instance).unwrap()).await?;
            }
            Deed::Spoil(instance) => self.put(&instance.service, &instance.id, b"nonsense".to_vec()).await?,
            Deed::Plant(kind, service, id) => self.put(&service, &id, kind.bytes(&service, &id)).await?,
            _ => return Err(Undone::cannot("the dialects of other software are not read yet")),
        }
        Ok(())
    }

    async fn linked(&self) -> Result<Linked, Undone> {
        let mut links = Vec::new();
        for member in self.etcd.members() {
            links.push(FaultProxy::start(member.addr()).await?);
        }
        Ok(Linked::new(Self::over(links.iter().map(FaultProxy::url)), links))
    }
}
