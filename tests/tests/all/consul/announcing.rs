//! One's own record at the agent: readable by everybody, kept, put back, and taken out by operators.

use std::time::Duration;

use meshwork_core::{ErrorKind, InstanceId, RegistrationState, Status};
use meshwork_registry_consul::{Check, Consul, Kind};
use meshwork_testkit::{proxy::FaultProxy, truth::eventually};
use serde_json::json;
use tokio::{net::TcpListener, time};

use super::bench::{Bench, LONG, Opened, SOON, TTL, backend, instance, named, only, shows, until, usable};

#[tokio::test]
async fn the_cli_plain_http_and_another_process_see_a_registration() {
    let bench = Bench::start().await;
    let watch = bench.opened().watch("users");
    shows(&watch, [], LONG).await;
    let mut users = instance("users", 80);
    users.endpoints.push("grpc://127.0.0.1:90".parse().unwrap());
    (users.zone, users.weight) = ("zone1".into(), 250);
    users.labels.set("team", "core");
    let registration = bench.opened().announce(users.clone()).await;
    shows(&watch, [registration.id().as_str()], LONG).await;
    assert_eq!(*only(&watch.latest()), users);

    let services = bench.consul.cli(["catalog", "services"]).await.unwrap();
    assert!(services.lines().any(|line| line.trim() == "users"), "{services}");
    let row = bench.health("users").await.remove(0);
    assert_eq!((&row["Service"]["Port"], &row["Service"]["Weights"]["Passing"]), (&json!(80), &json!(250)));
    assert_eq!(
        (&row["Service"]["Meta"]["team"], &row["Service"]["EnableTagOverride"]),
        (&json!("core"), &json!(false))
    );
    assert_eq!(row["Service"]["TaggedAddresses"]["grpc"]["Port"], 90);
    let checks = row["Checks"].as_array().unwrap();
    let ttl = checks.iter().find(|check| check["Type"] == "ttl").unwrap();
    assert_eq!((&ttl["Status"], &ttl["ServiceID"]), (&json!("passing"), &json!(registration.id())));
    eventually(LONG, "the heartbeat says something", || async {
        // The catalog learns of an output alone only every few minutes.
        let path = format!("/v1/agent/health/service/id/{}", registration.id());
        bench.agent().must("GET", &path, "").await.unwrap().contains("alive; heartbeat")
    })
    .await
    .unwrap();

    registration.deregister().await.unwrap();
    shows(&watch, [], SOON).await;
    assert!(bench.health("users").await.is_empty());
}

#[tokio::test]
async fn a_changed_record_is_never_absent() {
    let bench = Bench::start().await;
    let registration = bench.opened().announce(instance("users", 80)).await;
    let id = registration.id();
    for weight in [1, 0, 65_535] {
        registration.update(|instance| instance.weight = weight);
        let text = weight.to_string();
        let mut seen = false;
        while !seen {
            let said = bench.standing(id.as_str()).await.expect("it stands all the time");
            seen = said["Meta"]["meshwork-weight"] == text;
            assert_eq!(bench.health("users").await.len(), 1);
        }
        let passing = bench.standing(id.as_str()).await.unwrap()["Weights"]["Passing"].clone();
        assert_eq!(passing, json!(weight.max(1)));
    }
}

#[tokio::test]
async fn what_somebody_removes_or_edits_is_back_within_2_s() {
    let bench = Bench::start().await;
    let registration = bench.opened().announce(instance("users", 80)).await;
    let id = registration.id();
    let mine = bench.standing(id.as_str()).await.unwrap();
    let same = |said: &serde_json::Value| said["ContentHash"] == mine["ContentHash"];
    bench.consul.cli(["services", "deregister", &format!("-id={id}")]).await.unwrap();
    bench.stands(id.as_str(), SOON, "our record is back", same).await;
    let stranger = json!({ "ID": id, "Name": "users", "Port": 7, "Tags": ["edited"] });
    bench.put(&stranger).await;
    bench.stands(id.as_str(), SOON, "our record is as it was", same).await;
    assert_eq!(registration.id(), id, "the id is kept");
}

#[tokio::test]
async fn the_record_of_another_process_under_our_id_is_left_to_it() {
    let bench = Bench::start().await;
    let registration = bench.opened().announce(named("users", "users-1", 80)).await;
    let theirs = bench.opened().register(named("users", "users-1", 81));
    eventually(LONG, "the second one takes another id", || async { theirs.id().as_str() != "users-1" })
        .await
        .unwrap();
    time::timeout(LONG, theirs.live()).await.unwrap().unwrap();
    let watch = bench.opened().watch("users");
    shows(&watch, ["users-1", theirs.id().as_str()], LONG).await;
    assert_eq!(registration.id(), InstanceId::new("users-1").unwrap());
}

#[tokio::test]
async fn an_operators_maintenance_takes_it_out_within_1_s_and_survives_our_changes() {
    let bench = Bench::start().await;
    let watch = bench.opened().watch("users");
    let registration = bench.opened().announce(instance("users", 80)).await;
    let id = registration.id();
    shows(&watch, [id.as_str()], LONG).await;
    let maint = |enable: &str| [enable.to_owned(), format!("-service={id}")];
    let [enable, service] = maint("-enable");
    bench.consul.cli(["maint", &enable, &service, "-reason=disk"]).await.unwrap();
    until(&watch, Duration::from_secs(1), "it takes no calls", |view| usable(view).is_empty()).await;
    registration.update(|instance| instance.weight = 7);
    until(&watch, LONG, "the change is seen", |view| only(view).weight == 7).await;
    registration.update(|instance| instance.status = Status::Unready);
    bench
        .stands(id.as_str(), LONG, "it is unready", |said| said["Meta"]["meshwork-status"] == "unready")
        .await;
    registration.update(|instance| instance.status = Status::Up);
    bench.stands(id.as_str(), LONG, "it is up", |said| said["Meta"]["meshwork-status"] == "up").await;
    time::sleep(TTL).await;
    assert!(usable(&watch.latest()).is_empty(), "the operator's maintenance stands");
    let [disable, service] = maint("-disable");
    bench.consul.cli(["maint", &disable, &service]).await.unwrap();
    until(&watch, Duration::from_secs(1), "it takes calls", |view| usable(view) == [id.as_str()]).await;
}

#[tokio::test]
async fn unready_is_maintenance_for_everybody_and_ends_with_it() {
    let bench = Bench::start().await;
    let watch = bench.opened().watch("users");
    let mut users = instance("users", 80);
    users.status = Status::Unready;
    let registration = bench.opened().announce(users).await;
    until(&watch, LONG, "it is listed and takes no calls", |view| {
        view.value().len() == 1 && usable(view).is_empty()
    })
    .await;
    let passing = "/v1/health/service/users?passing";
    assert_eq!(bench.agent().must("GET", passing, "").await.unwrap().trim(), "[]");
    registration.update(|instance| instance.status = Status::Up);
    until(&watch, SOON, "it takes calls", |view| usable(view).len() == 1).await;
    registration.update(|instance| instance.status = Status::Unready);
    until(&watch, SOON, "it takes none", |view| view.value().len() == 1 && usable(view).is_empty()).await;
    let row = bench.health("users").await.remove(0);
    assert!(row["Checks"].to_string().contains("meshwork: unready"), "{row}");
}

#[tokio::test]
async fn a_silent_instance_leaves_the_view_within_its_time_to_live() {
    let bench = Bench::start().await;
    let proxy = FaultProxy::start(bench.agent().addr()).await.unwrap();
    let watch = bench.opened().watch("users");
    let registration = Opened::new(backend(proxy.url())).announce(instance("users", 80)).await;
    shows(&watch, [registration.id().as_str()], LONG).await;
    proxy.refuse().await.unwrap();
    proxy.cut().await.unwrap();
    let took = shows(&watch, [], TTL + Duration::from_secs(4)).await;
    println!("silent instance left the view after {took:?}, TTL {TTL:?}");
    let state = registration.state();
    eventually(LONG, "it knows that it is lost", || async {
        matches!(*state.borrow(), RegistrationState::Lost { .. })
    })
    .await
    .unwrap();
    proxy.accept().await.unwrap();
    shows(&watch, [registration.id().as_str()], Duration::from_secs(10)).await;
}

#[tokio::test]
async fn every_kind_of_check_runs_at_the_agent() {
    let bench = Bench::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 1024];
                stream.readable().await.unwrap();
                let _ = stream.try_read(&mut head);
                let _ = stream.try_write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            });
        }
    });
    let second = Duration::from_secs(1);
    let checks = [
        Check::default(),
        Check::new(Kind::Http).every(second).at_path("/ready"),
        Check::new(Kind::Tcp).every(second),
        Check::new(Kind::Grpc).every(second),
        Check::new(Kind::Script).every(second).running(["/bin/sh", "-c", "exit 1"]),
    ];
    let opened = Opened::new(backend(bench.consul.url()).with_checks(checks));
    let registration = opened.announce(instance("users", port)).await;
    // The server speaks no gRPC, so that check fails; the script says warning.
    for (kind, wanted, output) in [
        ("ttl", "passing", "alive"),
        ("http", "passing", "200 OK"),
        ("tcp", "passing", "Success"),
        ("grpc", "critical", ""),
        ("script", "warning", ""),
    ] {
        let id = format!("{}:{kind}", registration.id());
        eventually(LONG, &format!("{kind} is {wanted}"), || async {
            let said = bench.agent().must("GET", "/v1/agent/checks", "").await.unwrap();
            let check = serde_json::from_str::<serde_json::Value>(&said).unwrap()[&id].clone();
            check["Status"] == wanted && check["Output"].as_str().is_some_and(|said| said.contains(output))
        })
        .await
        .unwrap();
    }
    registration.deregister().await.unwrap();
    server.abort();
}

#[tokio::test]
async fn names_that_dns_cannot_carry_are_mapped_or_refused() {
    let bench = Bench::start().await;
    let opened = bench.opened();
    let dotted = opened.announce(instance("users.v1", 80)).await;
    let dashed = opened.announce(instance("users-v1", 81)).await;
    shows(&opened.watch("users.v1"), [dotted.id().as_str()], LONG).await;
    shows(&opened.watch("users-v1"), [dashed.id().as_str()], LONG).await;
    assert_eq!(bench.health("users-v1").await.len(), 2);
    let mut config = backend(bench.consul.url()).config().clone();
    config.names = meshwork_registry_consul::Names::Refuse;
    let strict = Opened::new(Consul::with_config(config)).register(instance("users.v1", 82));
    let error = time::timeout(LONG, strict.live()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
}

#[tokio::test]
async fn an_agent_that_never_answers_delays_neither_start_nor_exit() {
    let bench = Bench::start().await;
    bench.agent().freeze().await.unwrap();
    let timeout = Duration::from_millis(500);
    let opened = Opened::new(backend(bench.consul.url()).with_request_timeout(timeout));
    let registration = opened.register(instance("users", 80));
    let mut state = registration.state();
    let tried = state.wait_for(|state| matches!(state, RegistrationState::Pending { cause: Some(_) }));
    time::timeout(Duration::from_secs(5), tried).await.expect("start is told in time").unwrap();
    let _ =
        time::timeout(Duration::from_secs(4), registration.deregister()).await.expect("exit is not delayed");
    bench.agent().thaw();
}

#[tokio::test]
async fn a_check_that_the_agent_forbids_is_a_clear_error() {
    let bench =
        Bench::with(meshwork_testkit::consul::Consul::dev().hcl("enable_script_checks = false")).await;
    let checks = [Check::new(Kind::Script).running(["/bin/true"])];
    let registration =
        Opened::new(backend(bench.consul.url()).with_checks(checks)).register(instance("users", 80));
    let error = time::timeout(LONG, registration.live()).await.unwrap().unwrap_err();
    let chain = meshwork_core::ErrorChain(&*error).to_string();
    assert!(chain.contains("cripts are disabled"), "{chain}");
}
