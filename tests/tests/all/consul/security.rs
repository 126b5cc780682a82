//! Tokens that are missing, lost and rotated; certificates; sockets.

use std::{fs, time::Duration};

use meshwork_core::{ErrorKind, RegistrationState};
use meshwork_registry_consul::Consul;
use meshwork_testkit::{consul, truth::eventually};
use tokio::time;

use super::bench::{Bench, LONG, Opened, TTL, backend, instance, shows, until};

const RULES: &str = r#"service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }"#;

fn denied(view: &meshwork_core::Snapshot) -> bool {
    view.staleness().cause().is_some_and(|cause| cause.kind() == ErrorKind::Denied)
}

#[tokio::test]
async fn without_a_token_start_fails_clearly_and_with_one_it_works() {
    let bench = Bench::with(consul::Consul::dev().acl()).await;
    let nobody = bench.opened();
    let error =
        time::timeout(LONG, nobody.register(instance("users", 80)).live()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error:?}");
    until(&nobody.watch("users"), LONG, "finding is denied, not empty", denied).await;
    let (_, token) = bench.consul.make_token("users", RULES).await.unwrap();
    let opened = Opened::new(backend(bench.consul.url()).with_token(token.as_str()));
    let registration = opened.announce(instance("users", 80)).await;
    shows(&opened.watch("users"), [registration.id().as_str()], LONG).await;
}

#[tokio::test]
async fn a_token_that_is_deleted_keeps_the_list_and_alarms_within_5_s() {
    let bench = Bench::with(consul::Consul::dev().acl()).await;
    let (accessor, token) = bench.consul.make_token("users", RULES).await.unwrap();
    let opened = Opened::new(backend(bench.consul.url()).with_token(token.as_str()));
    let registration = opened.announce(instance("users", 80)).await;
    let watch = opened.watch("users");
    shows(&watch, [registration.id().as_str()], LONG).await;
    bench.agent().must("DELETE", &format!("/v1/acl/token/{accessor}"), "").await.unwrap();
    let begun = time::Instant::now();
    until(&watch, Duration::from_secs(7), "the view says denied", denied).await;
    println!("denied after {:?}", begun.elapsed());
    assert_eq!(watch.latest().value().len(), 1, "the list is kept");
    let state = registration.state();
    eventually(Duration::from_secs(7), "the registration says denied", || async {
        matches!(&*state.borrow(), RegistrationState::Lost { cause, .. } if cause.kind() == ErrorKind::Denied)
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_policy_that_is_edited_keeps_the_list_and_alarms_within_5_s() {
    for plan in [consul::Consul::dev(), consul::Consul::with_client_agent()] {
        let bench = Bench::with(plan.acl()).await;
        let (_, token) = bench.consul.make_token("users", RULES).await.unwrap();
        let opened = Opened::new(backend(bench.consul.url()).with_token(token.as_str()));
        let management = bench.consul.token().unwrap().to_owned();
        let announcer = Opened::new(backend(bench.consul.url()).with_token(management.as_str()));
        let (users, orders) = (
            announcer.announce(instance("users", 80)).await,
            announcer.announce(instance("orders", 81)).await,
        );
        let (hidden, readable) = (opened.watch("users"), opened.watch("orders"));
        shows(&hidden, [users.id().as_str()], LONG).await;
        shows(&readable, [orders.id().as_str()], LONG).await;
        let policy = bench.agent().must("GET", "/v1/acl/policy/name/users", "").await.unwrap();
        let policy: serde_json::Value = serde_json::from_str(&policy).unwrap();
        let edited = serde_json::json!({ "Name": "users",
            "Rules": r#"service "orders" { policy = "read" } node_prefix "" { policy = "read" }"# });
        let path = format!("/v1/acl/policy/{}", policy["ID"].as_str().unwrap());
        bench.agent().must("PUT", &path, &edited.to_string()).await.unwrap();
        let begun = time::Instant::now();
        until(&hidden, Duration::from_secs(7), "the view says denied", denied).await;
        println!("denied {:?} after the policy was edited", begun.elapsed());
        // Beyond the wait of a query, and what the streaming backend makes of it.
        time::sleep(Duration::from_secs(2)).await;
        assert_eq!(hidden.latest().value().len(), 1, "the list is kept");
        assert!(readable.latest().staleness().is_fresh(), "what may be read is read");
        assert_eq!(readable.latest().value().len(), 1);
    }
}

#[tokio::test]
async fn a_streamed_answer_without_those_who_are_hidden_is_not_taken() {
    let bench = Bench::with(consul::Consul::with_client_agent().acl()).await;
    let (_, token) = bench.consul.make_token("users", RULES).await.unwrap();
    let meddler = meshwork_testkit::consul::Meddler::start(bench.agent().addr()).await.unwrap();
    // The questions about known instances do not come through, so that only the wait is left.
    meddler.meddle(|exchange| {
        if exchange.path.contains("filter=") {
            exchange.status = 500;
        }
    });
    let wait = Duration::from_secs(3);
    let opened = Opened::new(backend(meddler.url()).with_token(token.as_str()).with_wait(wait));
    let management = bench.consul.token().unwrap().to_owned();
    let announcer = Opened::new(backend(bench.consul.url()).with_token(management.as_str()));
    let users = announcer.announce(instance("users", 80)).await;
    let mut watch = opened.watch("users");
    shows(&watch, [users.id().as_str()], LONG).await;
    let policy = bench.agent().must("GET", "/v1/acl/policy/name/users", "").await.unwrap();
    let policy: serde_json::Value = serde_json::from_str(&policy).unwrap();
    let edited = serde_json::json!({ "Name": "users", "Rules": r#"node_prefix "" { policy = "read" }"# });
    let path = format!("/v1/acl/policy/{}", policy["ID"].as_str().unwrap());
    bench.agent().must("PUT", &path, &edited.to_string()).await.unwrap();
    let end = time::Instant::now() + wait * 3;
    while !denied(&watch.latest()) {
        let view = time::timeout_at(end, watch.changed()).await.expect("it is told after the wait");
        assert_eq!(view.value().len(), 1, "{view:?}");
    }
}

#[tokio::test]
async fn a_rotated_token_file_is_picked_up_without_a_gap() {
    let bench = Bench::with(consul::Consul::dev().acl()).await;
    let (old_accessor, old) = bench.consul.make_token("old", RULES).await.unwrap();
    let (_, new) = bench.consul.make_token("new", RULES).await.unwrap();
    let file = bench.consul.dir().join("token");
    fs::write(&file, &old).unwrap();
    let opened = Opened::new(backend(bench.consul.url()).with_token_file(&file));
    let registration = opened.announce(instance("users", 80)).await;
    let watch = opened.watch("users");
    shows(&watch, [registration.id().as_str()], LONG).await;
    fs::write(&file, &new).unwrap();
    bench.agent().must("DELETE", &format!("/v1/acl/token/{old_accessor}"), "").await.unwrap();
    time::sleep(TTL * 3).await;
    assert_eq!(watch.latest().value().len(), 1);
    until(&watch, LONG, "the view is fresh", |view| view.staleness().is_fresh()).await;
    eventually(LONG, "the registration is live", || async {
        matches!(*registration.state().borrow(), RegistrationState::Live)
    })
    .await
    .unwrap();
    // Others see it all the time: its heartbeats went on.
    let token = bench.consul.token().unwrap().to_owned();
    let other = Opened::new(backend(bench.consul.url()).with_token(token.as_str()));
    shows(&other.watch("users"), [registration.id().as_str()], LONG).await;
}

#[tokio::test]
async fn tls_needs_the_right_authority_and_our_certificate() {
    let bench = Bench::with(consul::Consul::dev().tls()).await;
    let url = bench.agent().https_url().unwrap();
    let (cert, key) = bench.consul.client_certificate();
    let trusting = || backend(url.clone()).with_ca_file(bench.consul.ca_file());
    let opened = Opened::new(trusting().with_client_certificate(&cert, &key));
    let registration = opened.announce(instance("users", 80)).await;
    shows(&opened.watch("users"), [registration.id().as_str()], LONG).await;
    let named = trusting().with_client_certificate(&cert, &key).with_server_name("server.dc1.consul");
    shows(&Opened::new(named).watch("users"), [registration.id().as_str()], LONG).await;

    let kv = trusting().with_client_certificate(&cert, &key).client().await.unwrap();
    let request = rs_consul::types::CreateOrUpdateKeyRequest { key: "a", ..Default::default() };
    assert!(kv.create_or_update_key(request, b"1".to_vec()).await.unwrap().0);

    let stranger = backend(url.clone()).with_client_certificate(&cert, &key);
    until(&Opened::new(stranger).watch("users"), LONG, "its authority is refused", denied).await;
    // TLS 1.3 refuses us only after the handshake: all that is left is a closed connection.
    let nameless = Opened::new(trusting()).watch("users");
    until(&nameless, LONG, "we are refused", |view| view.staleness().cause().is_some()).await;
    let other = trusting().with_client_certificate(&cert, &key).with_server_name("somebody.else");
    until(&Opened::new(other).watch("users"), LONG, "the name is refused", denied).await;
}

#[tokio::test]
async fn rotated_certificates_are_used_and_broken_ones_are_not() {
    let bench = Bench::with(consul::Consul::dev().tls()).await;
    let strangers = Bench::with(consul::Consul::dev().tls()).await;
    let ca = bench.consul.dir().join("rotated-ca.pem");
    fs::copy(bench.consul.ca_file(), &ca).unwrap();
    let (cert, key) = bench.consul.client_certificate();
    let url = bench.agent().https_url().unwrap();
    let opened = Opened::new(backend(url).with_ca_file(&ca).with_client_certificate(cert, key));
    let registration = opened.announce(instance("users", 80)).await;
    let watch = opened.watch("users");
    shows(&watch, [registration.id().as_str()], LONG).await;
    fs::write(&ca, "no certificate").unwrap();
    time::sleep(Duration::from_secs(4)).await;
    let another = opened.announce(instance("users", 81)).await;
    shows(&watch, [registration.id().as_str(), another.id().as_str()], LONG).await;
    // Who signs for others does not sign for our agent.
    fs::copy(strangers.consul.ca_file(), &ca).unwrap();
    until(&watch, Duration::from_secs(10), "the new authority is in force", denied).await;
    assert_eq!(watch.latest().value().len(), 2);
}

#[tokio::test]
async fn hundreds_of_queries_over_tls_share_few_connections() {
    let bench = Bench::with(consul::Consul::dev().tls()).await;
    let proxy = meshwork_testkit::proxy::FaultProxy::start(
        bench.agent().https_url().unwrap().trim_start_matches("https://").parse().unwrap(),
    )
    .await
    .unwrap();
    let (cert, key) = bench.consul.client_certificate();
    let url = proxy.url().replace("http://", "https://");
    let opened =
        Opened::new(backend(url).with_ca_file(bench.consul.ca_file()).with_client_certificate(cert, key));
    let watches: Vec<_> = (0..300).map(|n| opened.watch(&format!("service-{n}"))).collect();
    for watch in &watches {
        time::timeout(LONG * 2, watch.ready()).await.unwrap();
    }
    let registration = bench.opened().announce(instance("service-299", 80)).await;
    shows(&watches[299], [registration.id().as_str()], LONG).await;
    let traffic = proxy.traffic();
    println!("300 watched services over TLS: {traffic:?}");
    assert!(traffic.open <= 4, "{traffic:?}");
}

#[tokio::test]
async fn an_agent_on_a_unix_socket_is_an_agent() {
    let bench = Bench::with(consul::Consul::dev().socket()).await;
    let opened = Opened::new(backend(format!("unix://{}", bench.consul.socket().display())));
    let registration = opened.announce(instance("users", 80)).await;
    let watch = opened.watch("users");
    shows(&watch, [registration.id().as_str()], LONG).await;
    registration.deregister().await.unwrap();
    shows(&watch, [], LONG).await;
    let nowhere = Consul::new("unix:///none/such").with_env("test");
    until(&Opened::new(nowhere).watch("users"), LONG, "it is away", |view| {
        view.staleness().cause().is_some_and(|cause| cause.kind() == ErrorKind::Unavailable)
    })
    .await;
}
