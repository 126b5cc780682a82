//! How other services are called, as an app's configuration and code say it.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

use std::{collections::BTreeSet, fs, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::get};
use meshwork::{
    App, CallError, Channel, Handle, Memory,
    client::{
        CallErrorKind,
        balance::{Member, Pick, Picked, Picker, Policy, Pool},
    },
};
use tempfile::TempDir;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

/// No step of a test takes longer.
const LIMIT: Duration = Duration::from_secs(20);

/// An instance of `users` that answers with its name.
struct User {
    addr: SocketAddr,
    handle: Handle,
    task: JoinHandle<()>,
}

impl User {
    async fn start(registry: &Memory, name: &'static str) -> Self {
        let app = App::new()
            .with_environment("test")
            .with_config("[service]\nname = \"users\"\nhttp = \"127.0.0.1:0\"\n[drain]\nsettle = \"0s\"\n")
            .with_registry(registry.clone())
            .http(Router::new().route("/", get(move || async move { name })));
        let handle = app.handle();
        let task = tokio::spawn(async move {
            app.serve_until(std::future::pending()).await.unwrap();
        });
        assert!(timeout(LIMIT, handle.serving()).await.unwrap(), "it does not serve");
        Self { addr: handle.local_addr().unwrap(), handle, task }
    }

    async fn stop(self) {
        self.handle.stop();
        timeout(LIMIT, self.task).await.unwrap().unwrap();
    }
}

/// An app that only calls, with a configuration file.
fn caller(registry: &Memory, toml: &str) -> (App, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    say(&dir, toml);
    let app = App::new()
        .with_environment("test")
        .with_config_dir(dir.path())
        .with_config("[service]\nname = \"orders\"\n")
        .with_registry(registry.clone());
    (app, dir)
}

fn say(dir: &TempDir, toml: &str) {
    fs::write(dir.path().join("default.toml"), toml).unwrap();
}

async fn text(channel: &Channel) -> Result<String, CallError> {
    timeout(LIMIT, async { channel.get("/").send().await?.text().await }).await.unwrap()
}

async fn answers(channel: &Channel) -> BTreeSet<String> {
    let mut answers = BTreeSet::new();
    for _ in 0..12 {
        answers.insert(text(channel).await.unwrap());
    }
    answers
}

/// Calls until the answers are these.
async fn until_answers(channel: &Channel, expected: &[&str]) {
    let end = Instant::now() + LIMIT;
    loop {
        let answers = answers(channel).await;
        if answers.iter().eq(expected) {
            return;
        }
        assert!(Instant::now() < end, "{answers:?} instead of {expected:?}");
    }
}

fn listed(keys: &[Box<str>]) -> Vec<&str> {
    keys.iter().map(|key| &**key).collect()
}

/// Sends every call to the one of these addresses, while it can take it.
struct Favourite(SocketAddr);

struct FavouriteFirst {
    pool: Pool,
    favourite: Option<usize>,
}

impl Policy for Favourite {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        let pool = Pool::new(members);
        let favourite = pool.iter().position(|member| member.node().key().has_addr(self.0));
        Box::new(FavouriteFirst { pool, favourite })
    }
}

impl Picker for FavouriteFirst {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        self.pool.take(pick, self.favourite)
    }
}

#[tokio::test]
async fn a_policy_of_ones_own_is_set_in_code_and_outlives_a_change_of_the_file() {
    let registry = Memory::new();
    let (ada, bo) = (User::start(&registry, "ada").await, User::start(&registry, "bo").await);
    let (app, dir) = caller(&registry, "[client.users]\nbalance = \"round-robin\"\n");
    let addr = bo.addr;
    let app = app.with_client("users", move |users| users.policy = Arc::new(Favourite(addr)));
    let users = app.channel("users");
    until_answers(&users, &["bo"]).await;
    say(&dir, "[client.users]\nbalance = \"least-request\"\ntimeout = \"5s\"\n");
    let reloaded = app.handle().reload().await.unwrap();
    assert_eq!(listed(&reloaded.applied), ["client.users.balance", "client.users.timeout"]);
    until_answers(&users, &["bo"]).await;
    // The others take its calls when it is gone.
    bo.stop().await;
    until_answers(&users, &["ada"]).await;
    ada.stop().await;
}

#[tokio::test]
async fn a_running_app_takes_policies_subsets_and_limits_from_its_file() {
    let registry = Memory::new();
    let (ada, bo) = (User::start(&registry, "ada").await, User::start(&registry, "bo").await);
    let (app, dir) = caller(&registry, "[client.users]\nbalance = \"round-robin\"\n");
    let (users, handle) = (app.channel("users"), app.handle());
    until_answers(&users, &["ada", "bo"]).await;

    let blue = "[client.users]\naperture = 9\n[client.users.subsets.blue]\nversion = \"no such\"\nfallback = \"strict\"\n";
    say(&dir, blue);
    let reloaded = handle.reload().await.unwrap();
    let applied =
        ["client.users.balance", "client.users.subsets.blue.fallback", "client.users.subsets.blue.version"];
    assert_eq!(listed(&reloaded.applied), applied);
    assert_eq!(listed(&reloaded.restart_needed), ["client.users.aperture"]);
    let end = Instant::now() + LIMIT;
    let error = loop {
        match text(&users.lane("blue")).await {
            Ok(_) => assert!(Instant::now() < end, "the subset is not there"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("no instance of the subset `blue` takes new calls"), "{error}");

    say(&dir, "[client.users]\nlimit = { rate = 1, longest_wait = \"0s\" }\n");
    handle.reload().await.unwrap();
    let refused = loop {
        match text(&users).await {
            Ok(_) => assert!(Instant::now() < end, "nothing is limited"),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), CallErrorKind::Overloaded);
    let words = "this client's limit of 1 calls a second (`client.users.limit` (";
    assert!(refused.to_string().contains(words), "{refused}");
    assert!(refused.to_string().contains("default.toml:2"), "it names the place: {refused}");

    // A mistake changes nothing.
    say(&dir, "[client.users]\nbalance = \"ruond-robin\"\n");
    let error = handle.reload().await.unwrap_err();
    assert!(format!("{error:?}").contains("did you mean \"round-robin\"?"), "{error:?}");
    assert_eq!(users.cluster_view().limits.len(), 1);
    ada.stop().await;
    bo.stop().await;
}

#[tokio::test]
async fn first_goes_by_the_order_of_a_direct_target() {
    let registry = Memory::new();
    let (ada, bo) = (User::start(&registry, "ada").await, User::start(&registry, "bo").await);
    for (first, second, name) in [(ada.addr, bo.addr, "ada"), (bo.addr, ada.addr, "bo")] {
        let (app, _dir) = caller(&registry, "[client.default]\nbalance = \"first\"\n");
        until_answers(&app.channel(&format!("direct:///{first},{second}")), &[name]).await;
    }
    ada.stop().await;
    bo.stop().await;
}

#[tokio::test]
async fn a_client_follows_its_own_kind_where_zones_or_an_aperture_need_it() {
    let registry = Memory::new();
    let local = |toml: &str| {
        let (app, _dir) = caller(&registry, toml);
        app.channel("users").config().local.clone()
    };
    assert!(local("").peers.is_none());
    assert!(local("[client.users]\naperture = 5\n").peers.is_some());
    let zoned = local("[service]\nzone = \"a\"\nregion = \"eu\"\n");
    assert!(zoned.peers.is_some() && zoned.instance.is_some());
    assert_eq!((&*zoned.zone, &*zoned.region), ("a", "eu"));
}

#[tokio::test]
async fn a_change_in_code_may_be_for_all_clients_or_for_a_target() {
    let registry = Memory::new();
    let (app, _dir) = caller(&registry, "");
    let app = app
        .with_client("direct:///127.0.0.1:1", |target| target.max_connections = 3)
        .with_client("default", |all| all.max_connections = 2);
    assert_eq!(app.channel("users").config().max_connections, 2);
    assert_eq!(app.channel("direct:///127.0.0.1:1").config().max_connections, 3, "the narrower one is last");
}
