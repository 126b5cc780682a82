//! A real etcd, the registry under test, and a plain client that plays the operator and the enemy.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails its test")]

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use etcd_client::{Client, ConnectOptions, GetOptions, KeyValue, PutOptions};
use meshwork_core::{
    Backend, Catalog, Discovery, ErrorChain, ErrorKind, Instance, InstanceId, Native, Parts, Query,
    Registration, Registry, ServiceName, Snapshot, Watch, encode,
};
use meshwork_registry_etcd::Etcd;
use meshwork_testkit::{
    etcd::{self, Tokens},
    truth::{eventually, view_equals},
};

/// The shortest time to live that the registry takes.
pub(super) const TTL: Duration = Duration::from_secs(2);
/// How soon a loss of our own is mended.
pub(super) const SOON: Duration = Duration::from_secs(2);
/// For what has no limit of its own: never what a test is about.
pub(super) const LONG: Duration = Duration::from_secs(20);
/// Who may do everything under the prefix.
pub(super) const USER: &str = "orders";
pub(super) const PASSWORD: &str = "correct horse";

/// One real server and a client that sees it directly.
pub(super) struct Bench {
    pub(super) etcd: etcd::Etcd,
    pub(super) raw: Raw,
}

impl Bench {
    pub(super) async fn start() -> Self {
        let etcd = etcd::Etcd::single().start().await.unwrap();
        Self::of(etcd).await
    }

    /// A server that asks who one is, with one user who may do everything under the prefix. The plain
    /// client is root.
    pub(super) async fn with_users(tokens: Tokens) -> Self {
        let etcd = etcd::Etcd::single().users(tokens).start().await.unwrap();
        etcd.make_user(USER, PASSWORD, "/meshwork/").await.unwrap();
        let raw = Raw::as_root(&etcd.endpoints()).await;
        Self { etcd, raw }
    }

    pub(super) async fn of(etcd: etcd::Etcd) -> Self {
        let raw = Raw::connect(&etcd.endpoints()).await;
        Self { etcd, raw }
    }

    /// Another user, who changes the revision of all users.
    pub(super) async fn etcdctl_user(&self, name: &str) {
        self.etcd.etcdctl(["user", "add", &format!("{name}:x")]).await.unwrap();
    }

    /// The registry over the server itself.
    pub(super) fn opened(&self) -> Opened {
        Opened::new(backend(self.etcd.endpoints()))
    }
}

/// The registry under test, with a short time to live.
pub(super) fn backend<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Etcd {
    Etcd::new(endpoints).with_env("test").with_lease_ttl(TTL)
}

/// An opened backend.
pub(super) struct Opened {
    registry: Arc<dyn Registry>,
    discovery: Arc<dyn Discovery>,
    pub(super) catalog: Arc<dyn Catalog>,
}

impl Opened {
    pub(super) fn new(etcd: Etcd) -> Self {
        let Parts { registry, discovery, catalog, .. } = etcd.open().unwrap();
        Self { registry: registry.unwrap(), discovery: discovery.unwrap(), catalog: catalog.unwrap() }
    }

    pub(super) fn watch(&self, service: &str) -> Watch {
        self.discovery.watch(&query(service))
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
    instance
}

/// An instance with a given id.
pub(super) fn named(service: &str, id: &str, port: u16) -> Instance {
    let mut instance = instance(service, port);
    instance.id = InstanceId::new(id).unwrap();
    instance
}

/// The key of an instance.
pub(super) fn key(instance: &Instance) -> String {
    key_of(instance.service.as_str(), instance.id.as_str())
}

pub(super) fn key_of(service: &str, id: &str) -> String {
    use meshwork_core::Dialect;
    let native = Native::new("meshwork").unwrap();
    format!("{}{id}", native.prefix("test", &ServiceName::new(service).unwrap()))
}

/// The ids as a set.
pub(super) fn ids<'a>(ids: impl IntoIterator<Item = &'a str>) -> BTreeSet<InstanceId> {
    ids.into_iter().map(|id| InstanceId::new(id).unwrap()).collect()
}

/// Waits until the view names exactly these instances.
pub(super) async fn shows<'a>(
    watch: &Watch,
    wanted: impl IntoIterator<Item = &'a str>,
    limit: Duration,
) -> Duration {
    view_equals(watch, &ids(wanted), limit).await.unwrap()
}

/// Waits until the view is as `check` says.
pub(super) async fn until(watch: &Watch, limit: Duration, what: &str, check: impl Fn(&Snapshot) -> bool) {
    if let Err(e) = eventually(limit, what, || async { check(&watch.latest()) }).await {
        panic!("{e}: {:?}", watch.latest().staleness());
    }
}

/// Waits until the view says this kind of error, and gives all of it as one line.
pub(super) async fn told(watch: &Watch, limit: Duration, kind: ErrorKind) -> String {
    let is_it = |view: &Snapshot| view.staleness().cause().is_some_and(|cause| cause.kind() == kind);
    let what = format!("the view says {kind:?}");
    if let Err(e) = eventually(limit, &what, || async { is_it(&watch.latest()) }).await {
        panic!("{e}: {:?}", watch.latest().staleness());
    }
    ErrorChain(&**watch.latest().staleness().cause().unwrap()).to_string()
}

/// A plain client.
#[derive(Clone)]
pub(super) struct Raw(Client);

impl Raw {
    pub(super) async fn connect(endpoints: &[String]) -> Self {
        Self(Client::connect(endpoints, None).await.unwrap())
    }

    pub(super) async fn as_root(endpoints: &[String]) -> Self {
        let options = ConnectOptions::new().with_user("root", "root").with_auto_token_refresh(true);
        Self(Client::connect(endpoints, Some(options)).await.unwrap())
    }

    pub(super) fn client(&self) -> Client {
        self.0.clone()
    }

    /// Puts a value without a lease.
    pub(super) async fn put(&self, key: &str, value: impl Into<Vec<u8>>) {
        self.0.clone().put(key, value, None).await.unwrap();
    }

    /// Puts a value under a lease.
    pub(super) async fn put_under(
        &self,
        key: &str,
        value: impl Into<Vec<u8>>,
        lease: i64,
    ) -> Result<(), etcd_client::Error> {
        let options = PutOptions::new().with_lease(lease);
        self.0.clone().put(key, value, Some(options)).await.map(drop)
    }

    /// Puts the record of `instance` without a lease.
    pub(super) async fn put_instance(&self, instance: &Instance) {
        self.put(&key(instance), encode(instance).unwrap()).await;
    }

    pub(super) async fn get(&self, key: &str) -> Option<KeyValue> {
        self.0.clone().get(key, None).await.unwrap().take_kvs().pop()
    }

    /// Everything under a prefix.
    pub(super) async fn all(&self, prefix: &str) -> Vec<KeyValue> {
        let options = GetOptions::new().with_prefix();
        self.0.clone().get(prefix, Some(options)).await.unwrap().take_kvs()
    }

    pub(super) async fn delete(&self, key: &str) {
        self.0.clone().delete(key, None).await.unwrap();
    }

    /// The lease that a key stands under.
    pub(super) async fn lease_of(&self, key: &str) -> Option<i64> {
        self.get(key).await.map(|kv| kv.lease()).filter(|lease| *lease != 0)
    }

    pub(super) async fn leases(&self) -> Vec<i64> {
        let leases = self.0.clone().leases().await.unwrap();
        leases.leases().iter().map(|lease| lease.id()).collect()
    }

    pub(super) async fn revision(&self) -> i64 {
        let answer = self.0.clone().get("x", None).await.unwrap();
        answer.header().unwrap().revision()
    }

    /// Forgets all history.
    pub(super) async fn compact(&self) {
        let revision = self.revision().await;
        self.0.clone().compact(revision, None).await.unwrap();
    }

    /// Waits until the key stands as `check` says.
    pub(super) async fn until(
        &self,
        key: &str,
        limit: Duration,
        what: &str,
        check: impl Fn(Option<&KeyValue>) -> bool,
    ) {
        eventually(limit, what, || async { check(self.get(key).await.as_ref()) }).await.unwrap();
    }
}
