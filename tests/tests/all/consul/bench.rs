//! Real agents, the registry under test, and an operator with the CLI and plain HTTP.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails its test")]
#![expect(clippy::needless_pass_by_value, reason = "what is opened is not needed any more")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use meshwork_core::{
    Backend, Catalog, Discovery, Instance, InstanceId, Parts, Query, Registration, Registry, ServiceName,
    Snapshot, Status, Watch,
};
use meshwork_registry_consul::Consul;
use meshwork_testkit::{
    consul::{self, Agent, ConsulPlan},
    truth::{eventually, view_equals},
};
use serde_json::Value;

/// The shortest time to live that the registry takes.
pub(super) const TTL: Duration = Duration::from_secs(2);
/// How soon a loss of our own is mended.
pub(super) const SOON: Duration = Duration::from_secs(2);
/// For what has no limit of its own: never what a test is about.
pub(super) const LONG: Duration = Duration::from_secs(30);

/// Real agents.
pub(super) struct Bench {
    pub(super) consul: consul::Consul,
}

impl Bench {
    /// One agent that forgets everything when it is killed.
    pub(super) async fn start() -> Self {
        Self::with(consul::Consul::dev()).await
    }

    pub(super) async fn with(plan: ConsulPlan) -> Self {
        Self { consul: plan.start().await.unwrap() }
    }

    /// The registry over the local agent.
    pub(super) fn opened(&self) -> Opened {
        Opened::new(backend(self.consul.url()))
    }

    pub(super) fn agent(&self) -> &Agent {
        self.consul.local()
    }

    /// What the catalog says of a service, to anybody.
    pub(super) async fn health(&self, service: &str) -> Vec<Value> {
        let said = self.agent().must("GET", &format!("/v1/health/service/{service}"), "").await.unwrap();
        serde_json::from_str(&said).unwrap()
    }

    /// Registers a service as another framework would.
    pub(super) async fn put(&self, service: &Value) {
        self.agent().must("PUT", "/v1/agent/service/register", &service.to_string()).await.unwrap();
    }

    /// What stands at the agent under this id.
    pub(super) async fn standing(&self, id: &str) -> Option<Value> {
        let (status, body) = self.agent().ask("GET", &format!("/v1/agent/service/{id}"), "").await.unwrap();
        (status == 200).then(|| serde_json::from_str(&body).unwrap())
    }

    /// Waits until something stands under this id that is as `check` says.
    pub(super) async fn stands(&self, id: &str, limit: Duration, what: &str, check: impl Fn(&Value) -> bool) {
        eventually(limit, what, || async { self.standing(id).await.is_some_and(|said| check(&said)) })
            .await
            .unwrap();
    }
}

/// The registry under test, with a short time to live.
pub(super) fn backend(url: impl Into<String>) -> Consul {
    Consul::new(url).with_env("test").with_ttl(TTL)
}

/// An opened backend.
pub(super) struct Opened {
    registry: Arc<dyn Registry>,
    discovery: Arc<dyn Discovery>,
    pub(super) catalog: Arc<dyn Catalog>,
}

impl Opened {
    pub(super) fn new(consul: Consul) -> Self {
        let Parts { registry, discovery, catalog, .. } = consul.open().unwrap();
        Self { registry: registry.unwrap(), discovery: discovery.unwrap(), catalog: catalog.unwrap() }
    }

    pub(super) fn watch(&self, service: &str) -> Watch {
        self.watch_query(&query(service))
    }

    pub(super) fn watch_query(&self, query: &Query) -> Watch {
        self.discovery.watch(query)
    }

    pub(super) fn register(&self, instance: Instance) -> Registration {
        self.registry.register(instance)
    }

    /// Registers and waits until it is live.
    pub(super) async fn announce(&self, instance: Instance) -> Registration {
        let registration = self.register(instance);
        tokio::time::timeout(LONG, registration.live()).await.unwrap().unwrap();
        registration
    }
}

pub(super) fn query(service: &str) -> Query {
    Query::new(ServiceName::new(service).unwrap())
}

/// An instance with a generated id; `port` tells it from others.
pub(super) fn instance(service: &str, port: u16) -> Instance {
    let mut instance = Instance::new(ServiceName::new(service).unwrap());
    instance.endpoints.push(format!("http://127.0.0.1:{port}").parse().unwrap());
    instance.env = "test".into();
    instance
}

/// An instance with a given id.
pub(super) fn named(service: &str, id: &str, port: u16) -> Instance {
    let mut instance = instance(service, port);
    instance.id = InstanceId::new(id).unwrap();
    instance
}

/// Waits until the view names exactly these instances.
pub(super) async fn shows<'a>(
    watch: &Watch,
    wanted: impl IntoIterator<Item = &'a str>,
    limit: Duration,
) -> Duration {
    let wanted: BTreeSet<InstanceId> = wanted.into_iter().map(|id| InstanceId::new(id).unwrap()).collect();
    view_equals(watch, &wanted, limit).await.unwrap()
}

/// Waits until the view is as `check` says.
pub(super) async fn until(watch: &Watch, limit: Duration, what: &str, check: impl Fn(&Snapshot) -> bool) {
    let met = eventually(limit, what, || async { check(&watch.latest()) }).await;
    assert!(met.is_ok(), "{met:?}: {:?}", watch.latest());
}

/// The ids that take calls.
pub(super) fn usable(view: &Snapshot) -> Vec<&str> {
    view.value().iter().filter(|i| i.status == Status::Up).map(|i| i.id.as_str()).collect()
}

/// The one instance of a view.
pub(super) fn only(view: &Snapshot) -> &Instance {
    assert_eq!(view.value().len(), 1, "{view:?}");
    &view.value()[0]
}
