//! Real Consul agents.
#![expect(clippy::unwrap_used, reason = "a rig that cannot be run fails its test")]

use std::time::Duration;

use meshwork_core::{Backend, InstanceId, ServiceName};
use meshwork_registry_consul::Consul;
use meshwork_testkit::{
    Error,
    conformance::{Deed, Limits, Linked, Malformed, Rig, Undone},
    consul,
    proxy::FaultProxy,
};
use serde_json::{Value, json};

/// Twice the shortest that the registry takes: on a busy machine an agent stands still for more than a second.
const TTL: Duration = Duration::from_secs(4);
/// Connections are shared only with TLS: without, each request under way has one. This many Consul takes from one
/// client.
const CONNECTIONS: u64 = 200;
const ENV: &str = "test";

/// One agent that is all, or a server and a client agent.
pub(super) struct Agents {
    consul: consul::Consul,
}

impl Agents {
    pub(super) async fn dev() -> Self {
        Self { consul: consul::Consul::dev().start().await.unwrap() }
    }

    pub(super) async fn with_client() -> Self {
        Self { consul: consul::Consul::with_client_agent().start().await.unwrap() }
    }

    fn over(url: String) -> Consul {
        Consul::new(url).with_env(ENV).with_ttl(TTL).with_wait(Duration::from_secs(5))
    }

    async fn deregister(&self, id: &InstanceId) -> Result<(), Error> {
        // One that is gone already is as it should be.
        self.consul.local().ask("PUT", &format!("/v1/agent/service/deregister/{id}"), "").await.map(drop)
    }

    async fn register(&self, service: &Value) -> Result<(), Error> {
        self.consul.local().must("PUT", "/v1/agent/service/register", &service.to_string()).await.map(drop)
    }

    /// A service as the registry writes it, with these Meta pairs.
    async fn plant(&self, service: &ServiceName, id: &InstanceId, meta: Value) -> Result<(), Error> {
        self.register(&json!({ "ID": id, "Name": service, "Address": "127.0.0.1", "Port": 80, "Meta": meta }))
            .await
    }
}

impl Rig for Agents {
    fn name(&self) -> String {
        if self.consul.agents().len() == 1 {
            "consul dev".to_owned()
        } else {
            "consul client agent".to_owned()
        }
    }

    fn backend(&self) -> Box<dyn Backend> {
        Box::new(Self::over(self.consul.url()))
    }

    fn env(&self) -> String {
        ENV.to_owned()
    }

    fn limits(&self) -> Limits {
        let mut limits = Limits::of_ttl(TTL);
        limits.connections = CONNECTIONS;
        if self.consul.agents().len() > 1 {
            // The agent tells the servers of a registration and of its end in two calls.
            limits.settles = Duration::from_secs(5);
        }
        limits.sees_every_revision = false;
        // A dev agent keeps nothing; while a client agent is away its node is critical, and whoever is on it out.
        limits.keeps_records = false;
        // A blocking query that hears nothing ends with its wait and what a request may take.
        limits.noticed = Duration::from_secs(10);
        limits
    }

    async fn act(&self, deed: Deed) -> Result<(), Undone> {
        let agent = self.consul.local();
        match deed {
            Deed::Stop => agent.kill9().await?,
            Deed::Start => agent.restart().await?,
            Deed::Wipe => {
                agent.kill9().await?;
                agent.wipe()?;
                agent.restart().await?;
            }
            Deed::Freeze => agent.freeze().await?,
            Deed::Thaw => agent.thaw(),
            Deed::Forget(instance) | Deed::Erase(instance) => self.deregister(&instance.id).await?,
            Deed::Spoil(instance) => {
                let service = &instance.service;
                let meta = json!({ "meshwork-schema": "1", "meshwork-service": service, "meshwork-weight": "heavy" });
                self.plant(service, &instance.id, meta).await?;
            }
            Deed::Plant(Malformed::OtherSchema, service, id) => {
                self.plant(&service, &id, json!({ "meshwork-schema": "99", "meshwork-service": service }))
                    .await?;
            }
            Deed::Plant(Malformed::WrongType, service, id) => {
                let meta = json!({ "meshwork-schema": "1", "meshwork-service": service, "meshwork-weight": "heavy" });
                self.plant(&service, &id, meta).await?;
            }
            Deed::Plant(Malformed::Nonsense, service, id) => {
                let meta = json!({ "meshwork-schema": "1", "meshwork-service": service, "meshwork-more-0": "nonsense" });
                self.plant(&service, &id, meta).await?;
            }
            Deed::Plant(..) => {
                return Err(Undone::cannot(
                    "the agent writes the form itself: there is nothing to break in it",
                ));
            }
            Deed::PutForeign(service, id) => {
                let service = json!({ "ID": id, "Name": service, "Address": "127.0.0.1", "Port": 7000 });
                self.register(&service).await?;
            }
            Deed::Put(_) => {
                return Err(Undone::cannot("how a process writes its record is the registry's own affair"));
            }
            _ => return Err(Undone::cannot("an agent is one process")),
        }
        Ok(())
    }

    async fn linked(&self) -> Result<Linked, Undone> {
        let link = FaultProxy::start(self.consul.local().addr()).await?;
        Ok(Linked::new(Self::over(link.url()), [link]))
    }
}
