//! Lists of services: of one registry, of two as one, of a table of them.

use std::{collections::BTreeSet, time::Duration};

use meshwork_core::{Backend, Catalog, Instance, Parts, Staleness, Watch};
use meshwork_registry::{Dual, Fixed, Local, Memory, Split, dual::Read};
use tokio::time::{sleep, timeout};

use crate::{LIMIT, Rig, instance, service};

type Services = Watch<BTreeSet<meshwork_core::ServiceName>>;

fn services(parts: &Parts) -> Services {
    Catalog::services(&**parts.catalog.as_ref().unwrap())
}

fn of(name: &str) -> Instance {
    let mut instance = instance(name, 81);
    instance.service = service(name);
    instance
}

async fn lists(watch: &Services, expected: &[&str]) -> Staleness {
    let mut watch = watch.clone();
    let found = timeout(LIMIT, async {
        loop {
            let view = watch.changed().await;
            let names = view.known().map(|names| names.iter().map(ToString::to_string).collect::<Vec<_>>());
            if names.is_some_and(|names| names == expected) {
                return view.staleness().clone();
            }
        }
    });
    found.await.unwrap_or_else(|_| panic!("no list {expected:?}: {:?}", watch.latest()))
}

async fn becomes(watch: &Services, is_met: impl Fn(&Staleness) -> bool) -> Staleness {
    let mut watch = watch.clone();
    let found = timeout(LIMIT, async {
        loop {
            let staleness = watch.changed().await.staleness().clone();
            if is_met(&staleness) {
                return staleness;
            }
        }
    });
    found.await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_memory_registry_lists_services_that_have_an_instance() {
    let memory = Memory::new();
    memory.put(of("users"));
    let watch = services(&memory.open().unwrap());
    assert!(lists(&watch, &["users"]).await.is_fresh());
    memory.put(of("orders"));
    lists(&watch, &["orders", "users"]).await;
    memory.fail(true);
    becomes(&watch, |staleness| !staleness.is_fresh()).await;
    memory.clear();
    assert_eq!(watch.latest().value().len(), 2, "what was read last stands");
    memory.fail(false);
    lists(&watch, &[]).await;
}

#[tokio::test]
async fn a_local_registry_lists_services_with_a_living_record() {
    let dir = tempfile::tempdir().unwrap();
    let parts = Local::at(dir.path().join("registry")).open().unwrap();
    let watch = services(&parts);
    assert!(lists(&watch, &[]).await.is_fresh());
    let registration = parts.registry.as_ref().unwrap().register(of("users"));
    registration.live().await.unwrap();
    lists(&watch, &["users"]).await;
    registration.deregister().await.unwrap();
    // Its directory stays.
    lists(&watch, &[]).await;
    assert!(dir.path().join("registry/dev/users").is_dir());
}

#[tokio::test(start_paused = true)]
async fn a_dual_lists_the_sides_that_are_read_and_says_which_is_away() {
    let rig = Rig::new();
    rig.primary.put(of("users"));
    rig.secondary.put(of("orders"));
    let watch = services(&rig.parts);
    assert!(lists(&watch, &["orders", "users"]).await.is_fresh());
    rig.secondary.partition(true);
    let stale = becomes(&watch, |staleness| !staleness.is_fresh()).await;
    let cause = stale.cause().unwrap().to_string();
    assert_eq!(cause, "listing services of the secondary side `two`");
    assert_eq!(watch.latest().value().len(), 2);
    rig.dual.steering().read(Read::Primary);
    assert!(lists(&watch, &["users"]).await.is_fresh());
}

#[tokio::test(start_paused = true)]
async fn a_split_lists_a_service_where_its_name_leads_to() {
    let (rest, core) = (Memory::new(), Memory::new());
    let list = || Fixed::new().service("static-one", ["http://h:1"]).unwrap();
    let split = Split::new(rest.clone()).route("core-*", core.clone()).route("static-one", list());
    let watch = services(&split.open().unwrap());
    assert!(lists(&watch, &["static-one"]).await.is_fresh());
    rest.put(of("users"));
    rest.put(of("core-lost"));
    core.put(of("core-a"));
    core.put(of("lost"));
    lists(&watch, &["core-a", "static-one", "users"]).await;
}

#[tokio::test(start_paused = true)]
async fn nobody_lists_when_nobody_watches_and_the_next_one_starts_anew() {
    let memory = Memory::new();
    memory.put(of("users"));
    let parts = Dual::new(memory.clone(), Memory::new()).open().unwrap();
    for round in 0..3 {
        let watch = services(&parts);
        assert!(watch.latest().known().is_none(), "round {round} starts anew");
        lists(&watch, &["users"]).await;
        drop(watch);
        sleep(Duration::from_secs(1)).await;
    }
}
