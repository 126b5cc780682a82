//! The directory, the records and the waiting that these tests share.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use meshwork_core::{ErrorChain, ErrorKind, Instance, InstanceId, Query, ServiceName, Watch};
use meshwork_registry::{Driven, DriverOptions, Local, LocalConfig};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Longer than anything that works takes, on two busy cores.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// Times are judged with this slack: machines are noisy.
pub(crate) const SLACK: u32 = 4;

/// A quick beat, so that tests need not wait for the default second.
pub(crate) fn config(dir: &Path) -> LocalConfig {
    let mut config = LocalConfig::default();
    config.dir = Some(dir.to_owned());
    config.heartbeat = Duration::from_millis(200);
    config.ttl = Duration::from_millis(600);
    config
}

pub(crate) fn local(dir: &Path) -> Local {
    Local::with_config(config(dir))
}

pub(crate) fn driven(dir: &Path) -> Driven<Local> {
    Driven::new(local(dir), DriverOptions::default())
}

pub(crate) fn scratch() -> (TempDir, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("registry");
    (scratch, dir)
}

pub(crate) fn service() -> ServiceName {
    ServiceName::new("users").unwrap()
}

pub(crate) fn users() -> Query {
    Query::new(service())
}

pub(crate) fn instance() -> Instance {
    let mut instance = Instance::new(service());
    instance.endpoints.push("http://127.0.0.1:80".parse().unwrap());
    vary(&mut instance, 100);
    instance
}

/// Makes a record whose parts tell whether they belong together; its length follows `n`.
pub(crate) fn vary(instance: &mut Instance, n: u16) {
    instance.weight = n;
    instance.labels.set("weight", n.to_string());
    instance.labels.set("padding", "x".repeat(usize::from(n % 7) * 200));
}

pub(crate) fn is_whole(instance: &Instance) -> bool {
    instance.labels.get("weight") == Some(&instance.weight.to_string())
}

pub(crate) fn record(dir: &Path, id: &InstanceId) -> PathBuf {
    dir.join("dev/users").join(format!("{id}.json"))
}

pub(crate) async fn until(watch: &mut Watch, is_met: impl Fn(&[&InstanceId]) -> bool) -> Duration {
    let started = Instant::now();
    let met = async {
        loop {
            let view = watch.changed().await;
            let ids: Vec<_> = view.value().iter().map(|instance| &instance.id).collect();
            if !view.staleness().is_pending() && is_met(&ids) {
                return;
            }
        }
    };
    timeout(LIMIT, met).await.expect("the view did not become what it should");
    started.elapsed()
}

/// Fails as soon as the view is not what it should be, within this time.
pub(crate) async fn stays(watch: &Watch, within: Duration, is_met: impl Fn(&[&InstanceId]) -> bool) {
    let mut watch = watch.clone();
    let broken = async {
        loop {
            let view = watch.changed().await;
            let ids: Vec<_> = view.value().iter().map(|instance| &instance.id).collect();
            assert!(is_met(&ids), "the view became {ids:?}");
        }
    };
    let _ = timeout(within, broken).await;
}

pub(crate) async fn eventually(what: &str, mut is_met: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !is_met() {
        assert!(started.elapsed() < LIMIT, "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
    started.elapsed()
}

/// The error that a view of a registry in `dir` waits with.
pub(crate) async fn cause(local: Local) -> (ErrorKind, String) {
    let driven = Driven::new(local, DriverOptions::default());
    let mut watch = driven.discovery().watch(&users());
    let cause = async {
        loop {
            if let Some(cause) = watch.changed().await.staleness().cause() {
                return (cause.kind(), ErrorChain(&**cause).to_string());
            }
        }
    };
    timeout(LIMIT, cause).await.expect("no error came")
}

/// The error that a registration in `dir` waits with.
pub(crate) async fn refusal(local: Local) -> (ErrorKind, String) {
    let driven = Driven::new(local, DriverOptions::default());
    let error = timeout(LIMIT, driven.registry().register(instance()).live()).await.unwrap().unwrap_err();
    (error.kind(), ErrorChain(&*error).to_string())
}

pub(crate) fn nobody(ids: &[&InstanceId]) -> bool {
    ids.is_empty()
}
