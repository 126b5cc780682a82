//! One process that is several services.

use std::collections::BTreeSet;

use meshwork::{Memory, ServiceName};
use meshwork_testkit::{etcd::Etcd, proxy::FaultProxy, truth::eventually};
use meshwork_tests::{SERVICE, records};
use orders::users::{GetUser, users_client::UsersClient};

use super::rig::{LIMIT, Running, app, users};

const NAMES: [&str; 5] = [SERVICE, "accounts", "billing", "mail", "search"];

fn count(memory: &Memory, service: &str) -> usize {
    memory.instances(&ServiceName::new(service).unwrap()).len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_services_of_one_process_are_found_and_one_leaves_alone() {
    let memory = Memory::new();
    let many =
        NAMES[1..].iter().fold(app(SERVICE).with_registry(memory.clone()), |app, name| app.serves(*name));
    many.handle().update(|instance| instance.weight = 7);
    let running = Running::start(users(many, "Ada")).await;
    let instances = running.handle.instances();
    let ids: BTreeSet<_> = instances.iter().map(|instance| instance.id.clone()).collect();
    assert_eq!((instances.len(), ids.len()), (5, 5));
    assert_eq!(instances[0].service.as_str(), SERVICE);
    assert!(instances.iter().all(|i| i.endpoints == instances[0].endpoints && i.weight == 7));

    let caller = app("caller").with_registry(memory.clone());
    for name in NAMES {
        assert_eq!(count(&memory, name), 1, "{name}");
        // Pinned, so that the process must answer to this very id.
        let id = instances.iter().find(|instance| instance.service.as_str() == name).unwrap().id.clone();
        let channel = caller.channel(name).to_instance(&id);
        assert_eq!(channel.get("/who").send().await.unwrap().text().await.unwrap(), "Ada", "{name}");
        let answer = UsersClient::new(channel).get(GetUser { id: 7 }).await.unwrap();
        assert_eq!(answer.into_inner().name, "Ada", "{name}");
    }

    running.handle.leave("billing").await.unwrap();
    running.handle.leave("billing").await.unwrap();
    assert_eq!(NAMES.map(|name| count(&memory, name)), [1, 1, 0, 1, 1]);
    running.handle.update(|instance| instance.labels.set("colour", "blue"));
    let is_blue = |name: &str| {
        let instances = memory.instances(&ServiceName::new(name).unwrap());
        instances.iter().all(|instance| instance.labels.get("colour") == Some("blue"))
    };
    eventually(LIMIT, "all records are changed", || async { NAMES.iter().all(|name| is_blue(name)) })
        .await
        .unwrap();
    assert_eq!(NAMES.map(|name| count(&memory, name)), [1, 1, 0, 1, 1], "who has left stays away");
    assert_eq!(caller.channel("mail").get("/who").send().await.unwrap().status(), 200);

    // The first one may leave as well.
    running.handle.leave(SERVICE).await.unwrap();
    assert!(running.handle.instance().is_none() && running.handle.instances().len() == 3);
    assert!(running.stop().await.is_clean());
    assert_eq!(NAMES.map(|name| count(&memory, name)), [0; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_services_of_a_process_share_one_connection() {
    let etcd = Etcd::single().start().await.unwrap();
    let link = FaultProxy::start(etcd.member(0).addr()).await.unwrap();
    let config = format!("[registry]\nuse = \"etcd\"\n[registry.etcd]\nendpoints = [{:?}]\n", link.url());
    let many = NAMES[1..].iter().fold(app(SERVICE).with_config(config), |app, name| app.serves(*name));
    let running = Running::start(users(many, "Ada")).await;
    for name in NAMES {
        assert_eq!(records::announced(&etcd, name).await.unwrap().len(), 1, "{name}");
    }
    assert_eq!(records::leases(&etcd).await.unwrap().len(), NAMES.len());
    assert_eq!(link.traffic().connections, 1);
    assert!(running.stop().await.is_clean());
    assert!(records::leases(&etcd).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_that_a_registry_does_not_take_in_time_are_all_withdrawn() {
    let memory = Memory::new();
    memory.fail(true);
    let brief = "[registry]\nstart_timeout = \"300ms\"";
    let many = app(SERVICE).with_registry(memory.clone()).with_config(brief).serves("billing");
    let error = Running::launch(users(many, "Ada")).ended().await.unwrap_err();
    assert_eq!(error.code(), 4, "{error:?}");
    memory.fail(false);
    assert_eq!([SERVICE, "billing"].map(|name| count(&memory, name)), [0, 0]);
}

#[tokio::test]
async fn a_service_that_is_announced_twice_or_has_no_name_is_refused() {
    for (name, said) in [
        (SERVICE, "`users` is announced already"),
        ("billing", "`billing` is announced already"),
        ("..", "`serves`"),
    ] {
        let many = app(SERVICE).with_registry(Memory::new()).serves("billing").serves(name);
        let error = Running::launch(users(many, "Ada")).ended().await.unwrap_err();
        assert_eq!(error.code(), 2, "{error:?}");
        assert!(format!("{error:?}").contains(said), "{error:?}");
    }
}
