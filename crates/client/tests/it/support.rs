//! A registry that the test writes, and waiting for conditions.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use meshwork_client::{CallError, Channel, ClientConfig, RequestBuilder};
use meshwork_core::{Evidence, Instance, InstanceId, Origin, Publisher, Seen, ServiceName, Staleness, Watch};
use tokio::{
    runtime::Handle,
    time::{self, Instant},
};

/// The most any wait of a test may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
pub(crate) const MS: Duration = Duration::from_millis(1);

pub(crate) fn service() -> ServiceName {
    ServiceName::new("users").unwrap()
}

pub(crate) fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

/// A record of ours.
pub(crate) fn native(name: &str, scheme: &str, addr: SocketAddr) -> Instance {
    let mut instance = Instance::with_id(service(), id(name));
    instance.endpoints.push(format!("{scheme}://{addr}").parse().unwrap());
    instance
}

/// A record of somebody else.
pub(crate) fn foreign(name: &str, scheme: &str, addr: SocketAddr) -> Instance {
    let mut instance = native(name, scheme, addr);
    instance.origin = Origin::Foreign;
    instance
}

/// What the test's registry says, and what the channel reported to it.
pub(crate) struct Registry {
    publisher: Publisher,
    seen: Arc<Evidences>,
}

#[derive(Default)]
struct Evidences(Mutex<Vec<(InstanceId, Seen)>>);

impl Evidence for Evidences {
    fn saw(&self, id: &InstanceId, what: Seen) {
        self.0.lock().unwrap().push((id.clone(), what));
    }
}

impl Registry {
    /// Nothing was read yet.
    pub(crate) fn pending() -> Self {
        Self { publisher: Publisher::new(Arc::from([])), seen: Arc::default() }
    }

    pub(crate) fn of(instances: impl IntoIterator<Item = Instance>) -> Self {
        let registry = Self::pending();
        registry.set(instances);
        registry
    }

    pub(crate) fn set(&self, instances: impl IntoIterator<Item = Instance>) {
        let mut all: Vec<Arc<Instance>> = instances.into_iter().map(Arc::new).collect();
        all.sort_by(|a, b| a.id.cmp(&b.id));
        self.set_shared(all);
    }

    pub(crate) fn set_shared(&self, all: Vec<Arc<Instance>>) {
        self.publisher.publish(Staleness::Fresh, all.into(), Arc::new([]));
    }

    pub(crate) fn fail(&self, error: meshwork_core::Error) {
        self.publisher.restate(Staleness::Pending { cause: Some(Arc::new(error)) });
    }

    pub(crate) fn watch(&self) -> Watch {
        self.publisher.watch().reporting_to(Arc::clone(&self.seen) as Arc<dyn Evidence>)
    }

    pub(crate) fn channel(&self) -> Channel {
        self.channel_with(|_| {})
    }

    pub(crate) fn channel_with(&self, change: impl FnOnce(&mut ClientConfig)) -> Channel {
        let mut config = ClientConfig::default();
        change(&mut config);
        Channel::new(service(), self.watch(), config)
    }

    pub(crate) fn has_seen(&self, name: &str, what: Seen) -> bool {
        self.seen.0.lock().unwrap().iter().any(|(id, seen)| id.as_str() == name && *seen == what)
    }
}

/// The tasks of this test's runtime.
pub(crate) fn tasks_left() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "timed out waiting until {what}");
        time::sleep(2 * MS).await;
    }
}

/// Sends and reads the text of a good answer.
pub(crate) async fn text(request: RequestBuilder) -> Result<String, CallError> {
    time::timeout(LIMIT, async { request.send().await?.error_for_status()?.text().await })
        .await
        .expect("a call ended neither well nor badly")
}
