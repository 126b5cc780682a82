//! Bad input: addresses that are none, answers that refuse, records that do not fit.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails its test")]

use std::time::Duration;

use meshwork_core::{ErrorChain, ErrorKind, RegistrationState};
use meshwork_registry_consul::Reads;
use meshwork_testkit::{
    consul::{self, Exchange, Meddler},
    truth::eventually,
};
use serde_json::json;
use tokio::{net::TcpListener, time};

use super::bench::{Bench, LONG, Opened, SOON, backend, instance, named, shows, until};

const HEALTH: &str = "/v1/health/service/";
const REGISTER: &str = "/v1/agent/service/register";

fn spoilt_service(exchange: &Exchange, name: &str) -> bool {
    exchange.path.starts_with(&format!("{HEALTH}{name}?")) || exchange.path == format!("{HEALTH}{name}")
}

#[tokio::test]
async fn a_start_at_a_wrong_address_says_what_is_wrong_with_it() {
    let bench = Bench::with(consul::Consul::dev().tls()).await;
    let plain = bench.consul.url();
    let tls = bench.agent().https_url().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = silent.local_addr().unwrap();
    drop(silent);
    for (what, url, kind) in [
        ("HTTPS towards plain HTTP", plain.replace("http:", "https:"), ErrorKind::Protocol),
        ("HTTP towards HTTPS", tls.replace("https:", "http:"), ErrorKind::Protocol),
        ("nobody there", format!("http://{gone}"), ErrorKind::Unavailable),
        ("no socket there", "unix:///none/such".to_owned(), ErrorKind::Unavailable),
    ] {
        let registration = Opened::new(backend(&*url)).register(instance("users", 80));
        let mut state = registration.state();
        let told = state.wait_for(|state| matches!(state, RegistrationState::Pending { cause: Some(_) }));
        let state = time::timeout(LONG, told).await.expect("it is told in time").unwrap().clone();
        let RegistrationState::Pending { cause: Some(cause) } = state else { unreachable!() };
        let chain = ErrorChain(&*cause).to_string();
        println!("{what}: {chain}");
        assert_eq!(cause.kind(), kind, "{what}: {chain}");
        assert!(chain.contains(&url), "{what} does not name the address: {chain}");
    }
}

#[tokio::test]
async fn a_record_that_does_not_fit_is_refused_by_name_before_anything_is_sent() {
    let bench = Bench::start().await;
    let meddler = Meddler::start(bench.agent().addr()).await.unwrap();
    let mut users = instance("users", 80);
    users.labels.set("release-notes", "x".repeat(600));
    let error = time::timeout(LONG, Opened::new(backend(meddler.url())).register(users).live())
        .await
        .unwrap()
        .unwrap_err();
    let chain = ErrorChain(&*error).to_string();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{chain}");
    assert!(chain.contains("`release-notes`") && chain.contains("600"), "{chain}");
    assert_eq!(meddler.count("/v1/agent/service"), 0, "{:?}", meddler.asked());

    // What Consul alone does not take as it is goes into one JSON value, and comes back.
    let mut odd = instance("users", 81);
    odd.labels.set("a key with blanks", "ü".repeat(128));
    (0..62).for_each(|n| odd.labels.set(format!("label-{n}"), "v"));
    let registration = bench.opened().announce(odd.clone()).await;
    let watch = bench.opened().watch("users");
    shows(&watch, [registration.id().as_str()], LONG).await;
    assert_eq!(watch.latest().value()[0].labels, odd.labels);
}

#[tokio::test]
async fn refused_registrations_are_told_and_tried_again() {
    let bench = Bench::start().await;
    let meddler = Meddler::start(bench.agent().addr()).await.unwrap();
    let refusals: [(u16, &str, ErrorKind); 4] = [
        (500, "", ErrorKind::Unavailable),
        (500, "rpc error: No cluster leader", ErrorKind::Unavailable),
        (429, "", ErrorKind::Unavailable),
        (429, "Your IP is issuing too many concurrent connections", ErrorKind::Unavailable),
    ];
    for (n, (status, body, kind)) in refusals.into_iter().enumerate() {
        meddler.meddle(move |exchange| {
            if exchange.path.starts_with(REGISTER) {
                (exchange.status, exchange.body) = (status, body.into());
            }
        });
        let registration = Opened::new(backend(meddler.url())).register(instance("users", 80 + n as u16));
        let mut state = registration.state();
        let told = state.wait_for(
            |state| matches!(state, RegistrationState::Pending { cause: Some(cause) } if cause.kind() == kind),
        );
        time::timeout(LONG, told).await.expect("it is told").unwrap();
        meddler.behave();
        time::timeout(LONG, registration.live()).await.unwrap().unwrap();
        registration.deregister().await.unwrap();
    }
}

#[tokio::test]
async fn heartbeats_that_are_refused_in_the_middle_are_an_alarm() {
    let bench = Bench::start().await;
    let meddler = Meddler::start(bench.agent().addr()).await.unwrap();
    let registration = Opened::new(backend(meddler.url())).announce(instance("users", 80)).await;
    meddler.meddle(|exchange| {
        if exchange.path.starts_with("/v1/agent/check/update/") {
            (exchange.status, exchange.body) =
                (403, b"Permission denied: token lacks service:write".to_vec());
        }
    });
    let mut state = registration.state();
    let lost = state.wait_for(
        |state| matches!(state, RegistrationState::Lost { cause, .. } if cause.kind() == ErrorKind::Denied),
    );
    time::timeout(Duration::from_secs(5), lost).await.expect("it is told within 5 s").unwrap();
}

#[tokio::test]
async fn refusals_with_and_without_a_body_keep_the_view() {
    let bench = Bench::start().await;
    let meddler = Meddler::start(bench.agent().addr()).await.unwrap();
    let opened = Opened::new(backend(meddler.url()).with_wait(Duration::from_secs(1)));
    let registration = bench.opened().announce(instance("users", 80)).await;
    let watch = opened.watch("users");
    for (status, body) in [(429, "Your IP is issuing too many"), (500, ""), (403, "Permission denied")] {
        shows(&watch, [registration.id().as_str()], LONG).await;
        until(&watch, LONG, "the view is fresh", |view| view.staleness().is_fresh()).await;
        meddler.meddle(move |exchange| {
            if exchange.path.starts_with(HEALTH) {
                (exchange.status, exchange.body) = (status, body.into());
            }
        });
        until(&watch, LONG, "the view is stale and full", |view| {
            !view.staleness().is_fresh() && view.value().len() == 1
        })
        .await;
        let denied =
            watch.latest().staleness().cause().is_some_and(|cause| cause.kind() == ErrorKind::Denied);
        assert_eq!(denied, status == 403, "{:?}", watch.latest());
        meddler.behave();
    }
}

#[tokio::test]
async fn nonsense_about_one_service_leaves_the_others_alone() {
    let bench = Bench::start().await;
    let meddler = Meddler::start(bench.agent().addr()).await.unwrap();
    let opened = Opened::new(backend(meddler.url()).with_wait(Duration::from_secs(1)));
    let users = bench.opened().announce(instance("users", 80)).await;
    let orders = bench.opened().announce(instance("orders", 81)).await;
    let (users_view, orders_view) = (opened.watch("users"), opened.watch("orders"));
    shows(&users_view, [users.id().as_str()], LONG).await;
    shows(&orders_view, [orders.id().as_str()], LONG).await;
    meddler.meddle(|exchange| {
        if spoilt_service(exchange, "users") {
            exchange.body = br#"{"Nodes": 7, "not": "a list"}"#.to_vec();
        }
        if exchange.path.starts_with("/v1/catalog/services") {
            exchange.body = br#"{"consul": [], "users": {"tags": 7}, "orders": null}"#.to_vec();
        }
    });
    until(&users_view, LONG, "what makes no sense is told", |view| {
        view.value().len() == 1
            && view.staleness().cause().is_some_and(|cause| cause.kind() == ErrorKind::Protocol)
    })
    .await;
    let another = bench.opened().announce(instance("orders", 82)).await;
    shows(&orders_view, [orders.id().as_str(), another.id().as_str()], LONG).await;
    assert!(orders_view.latest().staleness().is_fresh());
    let services = opened.catalog.services();
    eventually(LONG, "all names are listed", || async {
        let names: Vec<_> = services.latest().value().iter().map(ToString::to_string).collect();
        names == ["consul", "orders", "users"]
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn one_id_on_two_agents_is_two_strangers_and_one_of_us() {
    let bench = Bench::with(consul::Consul::with_client_agent()).await;
    let (server, client) = (bench.consul.first(), bench.agent());
    let stranger =
        |port: u16| json!({ "Name": "redis", "ID": "redis", "Port": port, "Address": "127.0.0.1" });
    for (agent, port) in [(server, 81), (client, 82)] {
        agent.must("PUT", REGISTER, &stranger(port).to_string()).await.unwrap();
    }
    let opened = bench.opened();
    shows(&opened.watch("redis"), ["redis.client", "redis.server"], LONG).await;

    // A process that moved to another agent, whose record still stands at the one before.
    let here = Opened::new(backend(client.url())).announce(named("users", "users-1", 80)).await;
    let watch = opened.watch("users");
    shows(&watch, ["users-1"], LONG).await;
    let body = server_copy(&bench, "users-1").await;
    server.must("PUT", REGISTER, &body).await.unwrap();
    let later = here.id();
    until(&watch, LONG, "one instance stands for both", |view| {
        view.value().len() == 1 && view.value()[0].endpoints[0].port() == 83
    })
    .await;
    // The one that is in good health is taken, whichever was written later.
    let sick =
        json!({ "Name": "sick", "ID": "sick", "TTL": "60s", "Status": "critical", "ServiceID": "users-1" });
    server.must("PUT", "/v1/agent/check/register", &sick.to_string()).await.unwrap();
    until(&watch, LONG, "the healthy one is taken", |view| {
        view.value().len() == 1 && view.value()[0].endpoints[0].port() == 80
    })
    .await;
    assert_eq!(later.as_str(), "users-1");
}

/// The record of `id` as the client agent has it, on port 83, for another agent to take.
async fn server_copy(bench: &Bench, id: &str) -> String {
    let standing = bench.standing(id).await.unwrap();
    let meta: serde_json::Value = serde_json::from_str(
        &standing["Meta"].to_string().replace("http://127.0.0.1:80", "http://127.0.0.1:83"),
    )
    .unwrap();
    json!({ "ID": id, "Name": "users", "Address": "127.0.0.1", "Port": 83, "Meta": meta }).to_string()
}

#[tokio::test]
async fn a_service_without_checks_is_usable_and_a_critical_node_takes_it_out() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    bench.put(&json!({ "Name": "users", "ID": "bare", "Port": 80, "Address": "127.0.0.1" })).await;
    let native = opened.announce(instance("users", 81)).await;
    let watch = opened.watch("users");
    let all = ["bare.server", native.id().as_str()].map(ToOwned::to_owned);
    shows(&watch, all.iter().map(String::as_str), LONG).await;
    let node = json!({ "Name": "disk", "ID": "disk", "TTL": "60s", "Status": "critical" }).to_string();
    bench.agent().must("PUT", "/v1/agent/check/register", &node).await.unwrap();
    shows(&watch, [], SOON).await;
    bench.agent().must("PUT", "/v1/agent/check/deregister/disk", "").await.unwrap();
    shows(&watch, all.iter().map(String::as_str), SOON).await;
}

#[tokio::test]
async fn answers_that_are_too_old_are_asked_for_again_at_the_leader() {
    let bench = Bench::start().await;
    let meddler = Meddler::start(bench.agent().addr()).await.unwrap();
    let stale = backend(meddler.url()).with_reads(Reads::Stale).with_wait(Duration::from_secs(1));
    let registration = bench.opened().announce(instance("users", 80)).await;
    let mut watch = Opened::new(stale).watch("users");
    shows(&watch, [registration.id().as_str()], LONG).await;
    let asked_before = meddler.asked().len();
    // A follower that was cut off a minute ago: nobody is registered there yet.
    meddler.meddle(|exchange| {
        if exchange.path.starts_with(HEALTH) && exchange.path.contains("stale") {
            exchange.body = b"[]".to_vec();
            exchange.set_header("x-consul-lastcontact", "60000");
        }
    });
    watch.latest();
    let end = time::Instant::now() + Duration::from_secs(4);
    while let Ok(view) = time::timeout_at(end, watch.changed()).await {
        assert_eq!(view.value().len(), 1, "{view:?}");
    }
    assert!(watch.latest().staleness().is_fresh());
    let asked = meddler.asked().split_off(asked_before);
    assert!(asked.iter().any(|path| path.contains("consistent")), "{asked:?}");
}

#[tokio::test]
async fn two_servers_5_000_indexes_apart_that_answer_in_turn_flip_nothing() {
    let bench = Bench::start().await;
    let meddler = Meddler::start(bench.agent().addr()).await.unwrap();
    let opened = Opened::new(backend(meddler.url()).with_wait(Duration::from_secs(1)));
    let old = bench.opened().announce(instance("users", 80)).await;
    let new = bench.opened().announce(instance("users", 81)).await;
    let both = [old.id().to_string(), new.id().to_string()];
    let mut watch = opened.watch("users");
    let (answers, newer) = (std::sync::atomic::AtomicUsize::new(0), both[1].clone());
    meddler.meddle(move |exchange| {
        let n = answers
            .fetch_add(usize::from(exchange.path.starts_with(HEALTH)), std::sync::atomic::Ordering::Relaxed);
        if !exchange.path.starts_with(HEALTH) {
            return;
        }
        let index: u64 = exchange.header("x-consul-index").unwrap().parse().unwrap();
        // The one that is behind does not know the newer instance; it is never the one that confirms.
        if n % 2 == 1 && !exchange.path.contains("consistent") {
            let rows: Vec<serde_json::Value> = serde_json::from_slice(&exchange.body).unwrap();
            let known = rows.into_iter().filter(|row| row["Service"]["ID"] != json!(newer));
            exchange.body = json!(known.collect::<Vec<_>>()).to_string().into_bytes();
            exchange.set_header("x-consul-index", (index + 5_000).to_string());
        } else {
            exchange.set_header("x-consul-index", (index + 10_000).to_string());
        }
    });
    shows(&watch, both.iter().map(String::as_str), LONG).await;
    let (begun, before) = (time::Instant::now(), meddler.count(HEALTH));
    let end = begun + Duration::from_secs(6);
    while let Ok(view) = time::timeout_at(end, watch.changed()).await {
        assert_eq!(view.value().len(), 2, "it flipped: {view:?}");
    }
    let (asked, seconds) = ((meddler.count(HEALTH) - before) as f64, begun.elapsed().as_secs_f64());
    println!("two servers in turn: {:.2} requests/s", asked / seconds);
    // Who stood still for a moment may ask a few times at once.
    assert!(asked <= 2.0 * seconds + 3.0, "{asked} requests in {seconds} s");
    assert!(watch.latest().staleness().is_fresh());
}
