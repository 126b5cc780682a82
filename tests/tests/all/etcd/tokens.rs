//! Users, passwords and permissions: tokens that end, users that change, passwords that are wrong.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails its test")]

use std::{fs, time::Duration};

use meshwork_core::{ErrorChain, ErrorKind, Registration, RegistrationState, Watch, decode};
use meshwork_registry_etcd::Etcd;
use meshwork_testkit::{
    etcd::{self, Tokens},
    proxy::FaultProxy,
    truth::eventually,
};
use tokio::{time, time::Instant};

use super::bench::{
    Bench, LONG, Opened, PASSWORD, Raw, SOON, TTL, USER, backend, instance, key_of, shows, told, until,
};

/// The least that etcd's tokens can live.
const TOKEN_TTL: Duration = Duration::from_secs(3);
/// How soon everything is well after a token ended.
const HEALED: Duration = Duration::from_secs(5);

fn user(url: impl Into<String>) -> Etcd {
    backend([url]).with_user(USER, PASSWORD)
}

/// How many logins the server has been asked for.
async fn logins(etcd: &etcd::Etcd) -> u64 {
    let said = etcd.member(0).metric("grpc_server_started_total", "grpc_method=\"Authenticate\"").await;
    said.unwrap() as u64
}

async fn is_live(registration: &Registration) {
    let state = registration.state();
    eventually(LONG, "it is live", || async { matches!(*state.borrow(), RegistrationState::Live) })
        .await
        .unwrap();
}

async fn is_denied(registration: &Registration) {
    let state = registration.state();
    eventually(LONG, "the registration says denied", || async {
        matches!(&*state.borrow(), RegistrationState::Lost { cause, .. } if cause.kind() == ErrorKind::Denied)
    })
    .await
    .unwrap();
}

/// One process of ours that announces and finds `user`.
struct Process {
    opened: Opened,
    registration: Registration,
    key: String,
    watch: Watch,
}

impl Process {
    async fn start(etcd: Etcd) -> Self {
        let opened = Opened::new(etcd);
        let registration = opened.announce(instance("user", 80)).await;
        let watch = opened.watch("user");
        shows(&watch, [registration.id().as_str()], LONG).await;
        until(&watch, LONG, "it is fresh", |view| view.staleness().is_fresh()).await;
        let key = key_of("user", registration.id().as_str());
        Self { opened, registration, key, watch }
    }

    /// A service is watched that was not before, and its record changes.
    async fn works(&self, raw: &Raw, weight: u16) {
        let another = self.opened.watch(&format!("another-{weight}"));
        until(&another, HEALED, "a new view is fresh", |view| view.staleness().is_fresh()).await;
        self.registration.update(|instance| instance.weight = weight);
        raw.until(&self.key, HEALED, "the update is written", |kv| {
            kv.is_some_and(|kv| decode(kv.value()).unwrap().weight == weight)
        })
        .await;
        until(&self.watch, HEALED, "the view has the update", |view| {
            view.staleness().is_fresh() && view.value().first().is_some_and(|first| first.weight == weight)
        })
        .await;
    }
}

async fn heals(tokens: Tokens) {
    let bench = Bench::with_users(tokens).await;
    let proxy = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    let process = Process::start(user(proxy.url())).await;
    let lease = bench.raw.lease_of(&process.key).await.unwrap();

    // Any change of users makes a JWT useless.
    let before = logins(&bench.etcd).await;
    bench.etcdctl_user("somebody").await;
    let raw = Raw::as_root(&bench.etcd.endpoints()).await;
    let begun = Instant::now();
    process.works(&raw, 1).await;
    println!("{tokens:?}: after `user add` all works in {:?}", begun.elapsed());

    // Nobody asks etcd anything that needs a token until there is none.
    time::sleep(TOKEN_TTL + Duration::from_millis(1500)).await;
    let begun = Instant::now();
    let raw = Raw::as_root(&bench.etcd.endpoints()).await;
    process.works(&raw, 2).await;
    println!("{tokens:?}: after the token ended all works in {:?}", begun.elapsed());
    assert_eq!(raw.lease_of(&process.key).await, Some(lease), "the registration was never lost");
    assert!(matches!(*process.registration.state().borrow(), RegistrationState::Live));

    // The token and the lease end at once.
    time::sleep(TOKEN_TTL + Duration::from_millis(1500)).await;
    bench.etcdctl_user("somebody-else").await;
    let raw = Raw::as_root(&bench.etcd.endpoints()).await;
    raw.client().lease_revoke(lease).await.unwrap();
    let begun = Instant::now();
    raw.until(&process.key, HEALED, "the record is back", |kv| {
        kv.is_some_and(|kv| kv.lease() != 0 && kv.lease() != lease)
    })
    .await;
    println!("{tokens:?}: without token and lease, back in {:?}", begun.elapsed());
    is_live(&process.registration).await;
    process.works(&raw, 3).await;
    let after = logins(&bench.etcd).await;
    println!("{tokens:?}: {} logins of all, the operator's included", after - before);
    assert!(after - before <= 20, "{} logins", after - before);
    assert_eq!(proxy.traffic().connections, 1, "a token is no reason to dial again");
}

#[tokio::test]
async fn a_simple_token_may_end_with_the_lease_and_users_may_change() {
    heals(Tokens::Simple(TOKEN_TTL)).await;
}

#[tokio::test]
async fn a_jwt_may_end_with_the_lease_and_users_may_change() {
    heals(Tokens::Jwt(TOKEN_TTL)).await;
}

#[tokio::test]
async fn whoever_loses_his_member_is_let_in_by_another() {
    for tokens in [Tokens::Simple(TOKEN_TTL), Tokens::Jwt(TOKEN_TTL)] {
        let etcd = etcd::Etcd::cluster(3).users(tokens).start().await.unwrap();
        etcd.make_user(USER, PASSWORD, "/meshwork/").await.unwrap();
        let mut proxies = Vec::new();
        for member in etcd.members() {
            proxies.push(FaultProxy::start(member.addr()).await.unwrap());
        }
        let urls = proxies.iter().map(FaultProxy::url);
        let backend = backend(urls).with_user(USER, PASSWORD).with_lease_ttl(Duration::from_secs(6));
        let process = Process::start(backend).await;
        let raw = Raw::as_root(&etcd.endpoints()).await;
        let lease = raw.lease_of(&process.key).await;
        for round in 1..=2 {
            let used = proxies.iter().find(|proxy| proxy.traffic().open > 0).unwrap();
            used.refuse().await.unwrap();
            used.cut().await.unwrap();
            process.works(&raw, round).await;
        }
        assert_eq!(raw.lease_of(&process.key).await, lease, "the registration was never lost");
    }
}

#[tokio::test]
async fn a_wrong_password_ends_the_start_and_is_tried_once() {
    let bench = Bench::with_users(Tokens::Simple(TOKEN_TTL)).await;
    let before = logins(&bench.etcd).await;
    let begun = Instant::now();
    let opened = Opened::new(backend(bench.etcd.endpoints()).with_user(USER, "wrong"));
    let registrations: Vec<_> =
        (0..5u16).map(|n| opened.register(instance(&format!("user-{n}"), 80 + n))).collect();
    let watches: Vec<_> = (0..5).map(|n| opened.watch(&format!("user-{n}"))).collect();
    for registration in &registrations {
        let error = time::timeout(LONG, registration.live()).await.unwrap().unwrap_err();
        let said = ErrorChain(&*error).to_string();
        assert_eq!(error.kind(), ErrorKind::Denied, "{said}");
        assert!(said.contains("`user` and `password`") && said.contains(USER), "{said}");
        assert!(!said.contains("wrong"), "{said}");
    }
    println!("told after {:?}", begun.elapsed());
    for watch in &watches {
        told(watch, LONG, ErrorKind::Denied).await;
    }
    time::sleep(SOON).await;
    assert_eq!(logins(&bench.etcd).await - before, 1);
}

#[tokio::test]
async fn whoever_names_no_user_is_told_which_key_is_missing() {
    let bench = Bench::with_users(Tokens::Simple(TOKEN_TTL)).await;
    let said =
        told(&Opened::new(backend(bench.etcd.endpoints())).watch("user"), LONG, ErrorKind::Denied).await;
    assert!(said.contains("`user` and `password`"), "{said}");
    let file = tempfile::tempdir().unwrap().path().join("password");
    let opened = Opened::new(backend(bench.etcd.endpoints()).with_password_file(USER, &file));
    let error = time::timeout(LONG, opened.register(instance("user", 80)).live()).await.unwrap().unwrap_err();
    let said = ErrorChain(&*error).to_string();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{said}");
    assert!(said.contains("password_file") && said.contains(&*file.to_string_lossy()), "{said}");
}

#[tokio::test]
async fn a_user_is_no_hindrance_where_nobody_is_asked_and_is_asked_later() {
    let bench = Bench::start().await;
    let process = Process::start(user(&bench.etcd.endpoints()[0])).await;
    bench.etcd.etcdctl(["user", "add", "root:root"]).await.unwrap();
    bench.etcd.etcdctl(["user", "grant-role", "root", "root"]).await.unwrap();
    bench.etcd.make_user(USER, PASSWORD, "/meshwork/").await.unwrap();
    bench.etcd.etcdctl(["auth", "enable"]).await.unwrap();
    let raw = Raw::as_root(&bench.etcd.endpoints()).await;
    process.works(&raw, 1).await;
    is_live(&process.registration).await;
}

#[tokio::test]
async fn a_password_that_changes_keeps_the_list_until_the_file_follows() {
    let bench = Bench::with_users(Tokens::Jwt(TOKEN_TTL)).await;
    let proxy = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    fs::write(&file, format!("{PASSWORD}\n")).unwrap();
    let etcd =
        backend([proxy.url()]).with_password_file(USER, &file).with_denied_retry(Duration::from_secs(1));
    let process = Process::start(etcd).await;
    let lease = bench.raw.lease_of(&process.key).await;

    bench.raw.client().user_change_password(USER, "battery staple").await.unwrap();
    let raw = Raw::as_root(&bench.etcd.endpoints()).await;
    let before = logins(&bench.etcd).await;
    let begun = Instant::now();
    proxy.cut().await.unwrap();
    let said = told(&process.watch, LONG, ErrorKind::Denied).await;
    println!("told after {:?}: {said}", begun.elapsed());
    assert!(said.contains("password_file") && said.contains(&*file.to_string_lossy()), "{said}");
    is_denied(&process.registration).await;
    // From 3.6 on also a lease is renewed only for who may write its keys: ours runs out.
    time::sleep(TTL * 3).await;
    println!("the lease is still there: {}", raw.lease_of(&process.key).await == lease);
    assert_eq!(process.watch.latest().value().len(), 1, "the list is kept");
    let (asked, waited) = (logins(&bench.etcd).await - before, begun.elapsed());
    println!("{asked} logins in {waited:?}, one a second allowed");
    assert!(asked <= waited.as_secs() + 3, "{asked} logins");

    fs::write(&file, "battery staple").unwrap();
    let begun = Instant::now();
    until(&process.watch, LONG, "it is fresh", |view| view.staleness().is_fresh()).await;
    is_live(&process.registration).await;
    println!("well {:?} after the file had changed", begun.elapsed());
    process.works(&raw, 1).await;
}

#[tokio::test]
async fn a_role_for_our_prefix_is_enough_for_everything_and_may_be_taken_and_given() {
    let bench = Bench::with_users(Tokens::Simple(Duration::from_secs(300))).await;
    let proxy = FaultProxy::start(bench.etcd.member(0).addr()).await.unwrap();
    let etcd = user(proxy.url()).with_synced_members().with_denied_retry(Duration::from_secs(1));
    let process = Process::start(etcd).await;
    process.works(&bench.raw, 1).await;
    let services = process.opened.catalog.services();
    time::timeout(LONG, services.ready()).await.unwrap();
    assert_eq!(services.latest().value().len(), 1);
    // Somebody whose role is for another prefix is refused, and that is all.
    bench.etcd.make_user("other", PASSWORD, "/other/").await.unwrap();
    let other = Opened::new(backend([proxy.url()]).with_user("other", PASSWORD));
    let said = told(&other.watch("user"), LONG, ErrorKind::Denied).await;
    assert!(said.contains("permission denied"), "{said}");

    // A watch is judged at its creation only: the next comparison with a list tells.
    let auditor = user(bench.etcd.endpoints().remove(0)).with_relist_every(Duration::from_secs(1));
    let audited = Opened::new(auditor.with_denied_retry(Duration::from_secs(1))).watch("user");
    shows(&audited, [process.registration.id().as_str()], LONG).await;
    bench.etcd.revoke(USER, "/meshwork/").await.unwrap();
    told(&audited, LONG, ErrorKind::Denied).await;
    assert_eq!(audited.latest().value().len(), 1, "the list is kept");
    proxy.cut().await.unwrap();
    let said = told(&process.watch, LONG, ErrorKind::Denied).await;
    assert!(said.contains("permission denied"), "{said}");
    is_denied(&process.registration).await;
    time::sleep(TTL * 2).await;
    assert_eq!(process.watch.latest().value().len(), 1, "the list is kept");
    bench.etcd.grant(USER, "/meshwork/").await.unwrap();
    let begun = Instant::now();
    process.works(&bench.raw, 2).await;
    is_live(&process.registration).await;
    until(&audited, LONG, "it is fresh", |view| view.staleness().is_fresh()).await;
    println!("well {:?} after the role was granted again", begun.elapsed());
    process.registration.deregister().await.unwrap();
    assert!(bench.raw.get(&process.key).await.is_none());
}
