//! Registries made of others, as the configuration and the code name them.

use std::{path::Path, time::Duration};

use meshwork::{Dual, Local, Memory, RegistrationState, ServiceName, Split};
use meshwork_core::{Backend, Discovery, Query};
use meshwork_testkit::{consul::Consul, etcd::Etcd, proxy::FaultProxy, truth::eventually};
use meshwork_tests::{ENVIRONMENT, SERVICE, provider::Plan, records};

use super::rig::{Files, LIMIT, Running, actor, app, unnamed, users};

/// Whom this directory lists.
fn listed(dir: &Path) -> std::sync::Arc<dyn Discovery> {
    Local::at(dir).open().unwrap().discovery.unwrap()
}

async fn lists(dir: &Path, count: usize) {
    let watch = listed(dir).watch(&Query::new(ServiceName::new(SERVICE).unwrap()).in_env(ENVIRONMENT));
    let told = format!("{} lists {count}", dir.display());
    eventually(LIMIT, &told, || async {
        watch.ready().await.value().len() == count && watch.latest().value().len() == count
    })
    .await
    .unwrap();
}

fn name(text: &str) -> ServiceName {
    ServiceName::new(text).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dual_in_code_announces_on_both_sides_and_finds_what_either_has() {
    let (old, new) = (Memory::new(), Memory::new());
    let both = users(app(SERVICE).with_registry(Dual::new(old.clone(), new.clone())), "Ada");
    let both = Running::start(both).await;
    let announced =
        || async { old.instances(&name(SERVICE)).len() == 1 && new.instances(&name(SERVICE)).len() == 1 };
    eventually(LIMIT, "it is announced on both sides", announced).await.unwrap();

    let alone = Running::start(users(app("alone").with_registry(new.clone()), "Eve")).await;
    let caller = app("caller").with_registry(Dual::new(old.clone(), new.clone()));
    for (service, who) in [(SERVICE, "Ada"), ("alone", "Eve")] {
        let answer = caller.channel(service).get("/who").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), who);
    }
    assert!(both.stop().await.is_clean() && alone.stop().await.is_clean());
    assert!(old.instances(&name(SERVICE)).is_empty() && new.instances(&name(SERVICE)).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_split_in_code_sends_each_service_to_its_registry() {
    let (team, core) = (Memory::new(), Memory::new());
    let split = || Split::new(team.clone()).route("core-*", core.clone());
    let users_app = Running::start(users(app("core-users").with_registry(split()), "Ada")).await;
    let shop = Running::start(users(app("shop").with_registry(split()), "Eve")).await;
    assert_eq!(
        (core.instances(&name("core-users")).len(), team.instances(&name("core-users")).len()),
        (1, 0)
    );
    assert_eq!((core.instances(&name("shop")).len(), team.instances(&name("shop")).len()), (0, 1));
    // What is down there is no matter of the others.
    core.fail(true);
    let caller = app("caller").with_registry(split());
    assert_eq!(caller.channel("shop").get("/who").send().await.unwrap().text().await.unwrap(), "Eve");
    let away = caller.channel("core-users").timeout(Duration::from_millis(300)).get("/who").send().await;
    assert!(away.is_err());
    core.fail(false);
    assert_eq!(caller.channel("core-users").get("/who").send().await.unwrap().text().await.unwrap(), "Ada");
    users_app.stop().await;
    shop.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_named_in_many_places_is_one_connection() {
    let etcd = Etcd::single().start().await.unwrap();
    let link = FaultProxy::start(etcd.member(0).addr()).await.unwrap();
    let config = format!(
        "[registry]\nuse = \"team\"\n[registry.etcd]\nendpoints = [{:?}]\n[registry.memory]\n\
         [registry.both]\nkind = \"dual\"\nprimary = \"etcd\"\nsecondary = \"memory\"\n\
         [registry.team]\nkind = \"split\"\ndefault = \"etcd\"\nroutes = {{ \"core-*\" = \"both\", shop = \"etcd\" }}\n",
        link.url()
    );
    let app = app("core-users").with_config(config);
    let channels = ["core-users", "shop", "others"].map(|service| app.channel(service));
    let running = Running::start(users(app, "Ada")).await;
    let answers =
        || async { channels[0].get("/who").send().await.is_ok_and(|answer| answer.status() == 200) };
    eventually(LIMIT, "it finds itself", answers).await.unwrap();
    for nobody in &channels[1..] {
        assert!(nobody.timeout(Duration::from_millis(200)).get("/who").send().await.is_err());
    }
    let announced =
        || async { records::announced(&etcd, "core-users").await.is_ok_and(|ids| ids.len() == 1) };
    eventually(LIMIT, "it is announced in etcd as well", announced).await.unwrap();
    assert_eq!(link.traffic().connections, 1);
    running.stop().await;
}

/// A dual of an etcd that is not there and of a directory.
fn half_dead(dir: &Path, start: &str) -> String {
    format!(
        "[registry]\nuse = \"both\"\nstart_timeout = \"1500ms\"\n\
         [registry.both]\nkind = \"dual\"\nprimary = \"old\"\nsecondary = \"new\"\nstart = {start:?}\n\
         [registry.old]\nkind = \"etcd\"\nendpoints = [\"http://127.0.0.1:9\"]\n\
         [registry.new]\nkind = \"local\"\ndir = {dir:?}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_side_keeps_nobody_from_starting_unless_all_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("registry");
    let app = app(SERVICE).with_config(half_dead(&dir, "any"));
    let itself = app.channel(SERVICE);
    let running = Running::start(users(app, "Ada")).await;
    assert!(matches!(running.handle.registration(), Some(RegistrationState::Live)));
    let answers = || async { itself.get("/who").send().await.is_ok_and(|answer| answer.status() == 200) };
    eventually(LIMIT, "it finds itself", answers).await.unwrap();
    let sides = running.handle.dual("both").expect("the configuration has this dual");
    assert_eq!((sides.primary.live.get(), sides.secondary.live.get()), (0, 1));
    running.stop().await;
    lists(&dir, 0).await;

    let app = unnamed().with_config("[service]\nname = \"users\"").with_config(half_dead(&dir, "all"));
    let error = Running::launch(users(app, "Ada")).ended().await.unwrap_err();
    let said = format!("{error:?}");
    assert_eq!(error.code(), 4, "{said}");
    for part in ["dual of etcd http://127.0.0.1:9", "and local directory", "primary", "`old`"] {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
    assert!(!said.contains("`new`"), "the side that took it is not to blame: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_banner_names_both_sides() {
    let (etcd, consul) = tokio::join!(Etcd::single().start(), Consul::dev().start());
    let (etcd, consul) = (etcd.unwrap(), consul.unwrap());
    let plan = Plan::provider()
        .etcd(&etcd.endpoints())
        .consul(&consul.url())
        .config("registry.use", "both")
        .config("registry.both.kind", "dual")
        .config("registry.both.primary", "etcd")
        .config("registry.both.secondary", "consul")
        .config("registry.both.start", "all");
    let provider = plan.start(actor()).await.unwrap();
    // What it prints may be read later than what it says.
    let banner = || provider.process().stderr().into_iter().find(|line| line.contains("registry="));
    eventually(LIMIT, "it prints a banner", || async { banner().is_some() }).await.unwrap();
    let banner = banner().unwrap();
    for part in ["dual of etcd", &etcd.endpoints()[0], "and consul", &consul.url()] {
        assert!(banner.contains(part), "`{part}` is not in: {banner}");
    }
    assert_eq!(records::announced(&etcd, SERVICE).await.unwrap().len(), 1);
    let listed = || async { consul.first().must("GET", "/v1/agent/services", "").await.unwrap() };
    assert!(listed().await.contains(provider.id()));

    // A target asks this Consul whatever the app's own registry is.
    let caller = app("caller").with_registry(Memory::new());
    let host = consul.url().replace("http://", "");
    let target = |params: &str| format!("consul://{host}/users?{params}");
    let found = caller.channel(&target("dc=dc1&reads=consistent")).get("/who").send().await.unwrap();
    assert_eq!(found.status(), 200);
    let brief = |params: &str| caller.channel(&target(params)).timeout(Duration::from_millis(500));
    assert!(brief("tag=green").get("/who").send().await.is_err());

    assert_eq!(provider.stop(LIMIT).await.unwrap().code, 0);
    assert!(records::announced(&etcd, SERVICE).await.unwrap().is_empty());
    assert!(!listed().await.contains(provider.id()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_an_etcd_that_moved_are_followed() {
    let etcd = Etcd::single().start().await.unwrap();
    let addr = etcd.member(0).addr();
    let (here, there) = (FaultProxy::start(addr).await.unwrap(), FaultProxy::start(addr).await.unwrap());
    let table = |link: &FaultProxy| {
        format!(
            "[registry]\nuse = \"etcd\"\n[registry.etcd]\nendpoints = [{:?}]\nlease_ttl = \"2s\"\n",
            link.url()
        )
    };
    let files = Files::with(&table(&here));
    let running = Running::start(users(app(SERVICE).with_config_dir(files.path()), "Ada")).await;
    let ids = records::announced(&etcd, SERVICE).await.unwrap();
    files.say(&table(&there));
    eventually(LIMIT, "it has moved", || async { there.traffic().open == 1 }).await.unwrap();
    here.refuse().await.unwrap();
    here.cut().await.unwrap();
    // For longer than a lease lives that nobody keeps.
    let lives = || async {
        matches!(running.handle.registration(), Some(RegistrationState::Live))
            && records::announced(&etcd, SERVICE).await.is_ok_and(|now| now == ids)
    };
    holds(Duration::from_secs(4), lives).await;
    assert!(running.stop().await.is_clean());
}

/// Fails when `holds` is not true at some moment of `time`.
async fn holds<F: Future<Output = bool>>(time: Duration, holds: impl Fn() -> F) {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < time {
        assert!(holds().await, "after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dual_is_steered_by_its_table() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (old, new) = (old.path().join("a"), new.path().join("b"));
    let table = |write: &str, read: &str| {
        format!(
            "[registry]\nuse = \"both\"\n[registry.both]\nkind = \"dual\"\nprimary = \"old\"\nsecondary = \"new\"\n\
             write = {write:?}\nread = {read:?}\n\
             [registry.old]\nkind = \"local\"\ndir = {old:?}\n[registry.new]\nkind = \"local\"\ndir = {new:?}\n"
        )
    };
    let files = Files::with(&table("primary", "primary"));
    let app = app(SERVICE).with_config_dir(files.path());
    let users_channel = app.channel(SERVICE);
    let running = Running::start(users(app, "Ada")).await;
    lists(&old, 1).await;
    lists(&new, 0).await;
    let steps = [("both", "primary", 1, 1), ("both", "union", 1, 1), ("secondary", "secondary", 0, 1)];
    for (write, read, in_old, in_new) in steps {
        files.say(&table(write, read));
        lists(&old, in_old).await;
        lists(&new, in_new).await;
        let answer = users_channel.timeout(Duration::from_secs(5)).get("/who").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "Ada");
    }
    running.stop().await;
    lists(&new, 0).await;
}
