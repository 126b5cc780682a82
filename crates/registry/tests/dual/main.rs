//! Dual and split registries over registries in memory: what is announced where, what is found, and what
//! happens when a side dies, moves, or was never there.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod announcing;
mod catalog;
mod finding;
mod graph;
mod logging;
mod moving;

use std::{sync::Arc, time::Duration};

use meshwork_core::{
    Backend, Discovery, Instance, InstanceId, Origin, Parts, Query, Registration, RegistrationState,
    Registry, ServiceName, Snapshot, Timestamp, Watch,
};
use meshwork_registry::{Dual, Memory};
use tokio::time::{sleep, timeout};

/// The longest that a test waits for a condition, in paused time.
const LIMIT: Duration = Duration::from_secs(120);

fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

fn users() -> ServiceName {
    service("users")
}

/// An instance of `users` at a port of its own; made twice it is the same process.
fn instance(id: &str, port: u16) -> Instance {
    let mut instance = Instance::with_id(users(), InstanceId::new(id).unwrap());
    instance.start_time = Some(Timestamp::from_millis(1_000));
    instance.endpoints.push(format!("http://127.0.0.1:{port}").parse().unwrap());
    instance
}

/// What somebody else has registered.
fn foreign(id: &str, port: u16) -> Instance {
    let mut instance = instance(id, port);
    (instance.origin, instance.start_time) = (Origin::Foreign, None);
    instance
}

/// Two registries and the dual over them.
struct Rig {
    primary: Memory,
    secondary: Memory,
    dual: Dual,
    parts: Parts,
}

impl Rig {
    fn new() -> Self {
        Self::with(|dual| dual)
    }

    fn with(change: impl FnOnce(Dual) -> Dual) -> Self {
        let (primary, secondary) = (Memory::new(), Memory::new());
        let dual = change(Dual::new(primary.clone(), secondary.clone()).named("one", "two"));
        let parts = dual.open().unwrap();
        Self { primary, secondary, dual, parts }
    }

    fn registry(&self) -> &Arc<dyn Registry> {
        self.parts.registry.as_ref().unwrap()
    }

    fn discovery(&self) -> &Arc<dyn Discovery> {
        self.parts.discovery.as_ref().unwrap()
    }

    fn watch(&self) -> Watch {
        self.discovery().watch(&Query::new(users()))
    }

    /// The ids on both sides, in fact.
    fn truth(&self) -> [Vec<String>; 2] {
        [&self.primary, &self.secondary].map(|memory| names(memory.instances(&users()).iter()))
    }

    async fn truth_is(&self, primary: &[&str], secondary: &[&str]) {
        let both = [primary, secondary].map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>());
        let what = format!("{both:?} on the sides");
        eventually(&what, || self.truth() == both).await;
    }
}

fn names<'a>(instances: impl Iterator<Item = &'a Arc<Instance>>) -> Vec<String> {
    instances.map(|instance| instance.id.to_string()).collect()
}

fn ids(view: &Snapshot) -> Vec<String> {
    names(view.value().iter())
}

async fn eventually(what: &str, mut is_met: impl FnMut() -> bool) {
    let waited = timeout(LIMIT, async {
        while !is_met() {
            sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited for {what}");
}

/// The first view that fits.
async fn view(watch: &Watch, what: &str, is_met: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let mut watch = watch.clone();
    let found = timeout(LIMIT, async {
        loop {
            let view = watch.changed().await;
            if is_met(&view) {
                return view;
            }
        }
    });
    found.await.unwrap_or_else(|_| panic!("no view {what}: {:?}", watch.latest()))
}

async fn shows(watch: &Watch, expected: &[&str]) -> Snapshot {
    view(watch, &format!("of {expected:?}"), |view| view.known().is_some() && ids(view) == expected).await
}

async fn state(registration: &Registration, word: &str) -> RegistrationState {
    let mut states = registration.state();
    let found = timeout(LIMIT, states.wait_for(|state| state.as_str() == word)).await;
    found.unwrap_or_else(|_| panic!("no state `{word}`: {registration:?}")).unwrap().clone()
}
