//! Registries made of registries.

use std::{sync::Arc, time::Duration};

use meshwork_core::{Backend, ErrorKind, Query, Staleness};
use meshwork_registry::{Dual, DualConfig, Fixed, Memory, Split, dual::Read};
use tokio::time::timeout;

use crate::{instance, service, shows, users, view};

fn of(name: &str, id: &str, port: u16) -> meshwork_core::Instance {
    let mut instance = instance(id, port);
    instance.service = service(name);
    instance
}

#[tokio::test(start_paused = true)]
async fn each_service_lives_in_the_registry_its_name_leads_to() {
    let (rest, core, one) = (Memory::new(), Memory::new(), Memory::new());
    let split = Split::new(rest.clone()).route("core-*", core.clone()).route("core-users", one.clone());
    let parts = split.open().unwrap();
    let (registry, discovery) = (parts.registry.unwrap(), parts.discovery.unwrap());
    for (name, home) in [("users", &rest), ("core-billing", &core), ("core-users", &one)] {
        let registration = registry.register(of(name, name, 81));
        registration.live().await.unwrap();
        for memory in [&rest, &core, &one] {
            let is_home = std::ptr::eq(memory, home);
            assert_eq!(memory.instances(&service(name)).len(), usize::from(is_home), "{name}");
        }
        let watch = discovery.watch(&Query::new(service(name)));
        assert_eq!(watch.ready().await.value().len(), 1);
        registration.deregister().await.unwrap();
        assert!(home.instances(&service(name)).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_down_affects_its_own_services_alone() {
    let (rest, core) = (Memory::new(), Memory::new());
    rest.partition(true);
    core.put(of("core-a", "a", 81));
    let parts = Split::new(rest.clone()).route("core-*", core).open().unwrap();
    let (registry, discovery) = (parts.registry.unwrap(), parts.discovery.unwrap());
    let lost = discovery.watch(&Query::new(users()));
    let found = discovery.watch(&Query::new(service("core-a")));
    let fresh = timeout(Duration::from_millis(100), found.ready()).await.unwrap();
    assert!(fresh.staleness().is_fresh());
    let live = registry.register(of("core-b", "b", 82));
    timeout(Duration::from_millis(100), live.live()).await.unwrap().unwrap();
    let pending = registry.register(instance("c", 83));
    assert!(timeout(Duration::from_secs(5), pending.live()).await.is_err());
    assert!(lost.latest().known().is_none());
    rest.partition(false);
    pending.live().await.unwrap();
    shows(&lost, &["c"]).await;
}

#[tokio::test(start_paused = true)]
async fn one_opened_registry_stands_in_several_places() {
    let (etcd, consul) = (Memory::new(), Memory::new());
    let (first, second) = (etcd.open().unwrap(), consul.open().unwrap());
    let both = Dual::new(first.clone(), second.clone()).named("etcd", "consul");
    let split = Split::new(first).route("core-*", both).route("core-legacy", second);
    let parts = split.open().unwrap();
    let registry = parts.registry.unwrap();
    let mut kept = Vec::new();
    for (name, places) in [("users", [1, 0]), ("core-a", [1, 1]), ("core-legacy", [0, 1])] {
        let registration = registry.register(of(name, name, 81));
        registration.live().await.unwrap();
        let here = || [&etcd, &consul].map(|memory| memory.instances(&service(name)).len());
        crate::eventually("it is where it belongs", || here() == places).await;
        kept.push(registration);
    }
    assert!(parts.description.contains("core-* = dual of"), "{}", parts.description);
}

#[tokio::test(start_paused = true)]
async fn a_dual_of_splits_and_duals_heals_in_every_branch() {
    let memories: [Memory; 4] = std::array::from_fn(|_| Memory::new());
    let [a, b, c, d] = memories.clone();
    let parts = Dual::new(Split::new(a).route("users", b), Dual::new(c, d)).open().unwrap();
    let registration = parts.registry.unwrap().register(instance("u", 81));
    registration.live().await.unwrap();
    let watch = parts.discovery.unwrap().watch(&Query::new(users()));
    shows(&watch, &["u"]).await;
    let places = || memories.each_ref().map(|memory| memory.instances(&users()).len());
    crate::eventually("three places", || places() == [0, 1, 1, 1]).await;
    view(&watch, "that is fresh", |view| view.staleness().is_fresh()).await;
    memories[1].fail(true);
    memories[2].partition(true);
    let stale = view(&watch, "of the inner cause", |view| {
        let chain = view.staleness().cause().map(|cause| meshwork_core::ErrorChain(&**cause).to_string());
        chain.is_some_and(|chain| chain.matches("side").count() >= 3)
    });
    assert_eq!(stale.await.value().len(), 1);
    memories[1].clear();
    memories[1].fail(false);
    memories[2].partition(false);
    crate::eventually("three places again", || places() == [0, 1, 1, 1]).await;
    registration.deregister().await.unwrap();
    assert_eq!(places(), [0; 4]);
    shows(&watch, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_of_a_static_list_needs_no_announcing() {
    let list = Fixed::new().service("users", ["http://127.0.0.1:81"]).unwrap();
    let parts = Split::new(Memory::new()).route("users", list).open().unwrap();
    let registration = parts.registry.unwrap().register(instance("a", 81));
    registration.live().await.unwrap();
    let gone = registration.state();
    registration.deregister().await.unwrap();
    assert_eq!(gone.borrow().as_str(), "gone");
    let found = parts.discovery.unwrap().watch(&Query::new(users())).ready().await;
    assert_eq!(found.value()[0].id.as_str(), "static-127.0.0.1-81");
}

#[tokio::test(start_paused = true)]
async fn a_default_that_never_answers_keeps_its_services_pending_and_the_rest_going() {
    let silent = Memory::new();
    silent.partition(true);
    let known = Memory::new();
    known.put(instance("a", 81));
    let parts = Dual::new(Split::new(silent).route("orders", Memory::new()), known)
        .read(Read::PrimaryThenSecondary)
        .open()
        .unwrap();
    let watch = parts.discovery.unwrap().watch(&Query::new(users()));
    let view = shows(&watch, &["a"]).await;
    assert!(matches!(view.staleness(), Staleness::Stale { .. }));
}

#[test]
fn the_same_registry_twice_is_refused_where_it_can_be_seen() {
    let memory = Memory::new();
    let parts = memory.open().unwrap();
    let twice = |dual: Dual| dual.open().err().unwrap();
    for error in [twice(Dual::new(parts.clone(), parts)), twice(Dual::new(memory.clone(), memory))] {
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("both sides of a dual registry are the same"), "{error}");
    }
    assert!(Dual::new(Memory::new(), Memory::new()).open().is_ok());
}

#[test]
fn a_table_of_the_configuration_makes_a_dual() {
    let json = r#"{"primary":"etcd","secondary":"consul","read":"primary"}"#;
    let config: DualConfig = serde_json::from_str(json).unwrap();
    let dual = Dual::with_config(Memory::new(), Memory::new(), &config);
    assert_eq!(dual.steering().policy().read, Read::Primary);
    let shared: Arc<dyn Backend> = Arc::new(dual);
    assert!(shared.open().unwrap().registry.is_some());
}

#[test]
fn a_side_or_a_route_that_cannot_be_opened_is_named() {
    let bad = || Split::new(Memory::new()).route("a*b", Memory::new());
    let error = Dual::new(Memory::new(), bad()).open().err().unwrap();
    let chain = meshwork_core::ErrorChain(&error).to_string();
    assert!(chain.starts_with("opening the secondary side of a dual registry: route `a*b`"), "{chain}");
    let error = Split::new(Memory::new()).route("core-*", bad()).open().err().unwrap();
    let chain = meshwork_core::ErrorChain(&error).to_string();
    assert!(chain.starts_with("opening route `core-*`: route `a*b`"), "{chain}");
    assert!(Split::check("core-*").is_ok() && Split::check("*").is_err());
}
