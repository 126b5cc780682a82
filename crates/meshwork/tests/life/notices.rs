//! Notices: what is told, to whom, and that nobody waits for it.

use std::{
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use meshwork::{Check, Memory, Notice, NoticeKind, NoticeState, Notices};
use tokio::{
    net::TcpListener,
    time::{Instant, timeout},
};

use crate::rig::{LIMIT, NAME, Running, app, eventually};

/// Someone who is told of notices, and what he was told.
struct Listener {
    running: Running,
    heard: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    /// Answers with this status; without one it never answers.
    async fn start(status: Option<StatusCode>) -> Self {
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let hook = move |State(heard): State<Arc<Mutex<Vec<String>>>>, body: Bytes| async move {
            heard.lock().unwrap().push(String::from_utf8(body.to_vec()).unwrap());
            match status {
                Some(status) => status,
                None => pending().await,
            }
        };
        let routes = Router::new().route("/hook/{secret}", post(hook)).with_state(Arc::clone(&heard));
        let quick = "[drain]\nsettle = \"0s\"\ndeadline = \"1s\"";
        let running = Running::start(app(&Memory::new()).with_config(quick).http(routes)).await;
        Self { running, heard }
    }

    fn url(&self) -> String {
        url(self.running.handle.local_addr().unwrap())
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap().clone()
    }
}

fn url(addr: SocketAddr) -> String {
    format!("http://{addr}/hook/s3cr3t?k=v")
}

fn notices(webhook: &str) -> String {
    format!("[service.notices]\nwebhook = {webhook:?}\nwebhook_timeout = \"300ms\"\ndelay = \"20ms\"\n")
}

async fn next(notices: &mut Notices) -> Notice {
    timeout(LIMIT, notices.next()).await.expect("a notice comes in time").expect("the app is there")
}

/// A check that answers as `well` counts: odd is well.
fn switched(name: &'static str) -> (Check, Arc<AtomicUsize>) {
    let well = Arc::new(AtomicUsize::new(1));
    let asked = Arc::clone(&well);
    let check = Check::new(name, move || {
        let is_well = asked.load(SeqCst) % 2 == 1;
        async move { is_well.then_some(()).ok_or("it is away") }
    });
    (check.interval(Duration::from_millis(5)).failure_threshold(1), well)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_that_stop_both_ways_are_told_and_when_all_is_well_again() {
    let (memory, listener) = (Memory::new(), Listener::start(Some(StatusCode::NO_CONTENT)).await);
    let running = Running::start(app(&memory).with_config(notices(&listener.url()))).await;
    let channel = running.handle.channel(NAME).unwrap();
    assert_eq!(channel.get("/").send().await.unwrap().status(), 200);
    let mut heard = running.handle.notices();

    memory.fail(true);
    memory.clear();
    let mut lost = [next(&mut heard).await, next(&mut heard).await];
    lost.sort_by_key(|notice| notice.kind);
    let [registration, discovery] = &lost;
    assert_eq!((registration.kind, registration.state), (NoticeKind::Registration, NoticeState::Critical));
    assert_eq!((discovery.kind, discovery.state), (NoticeKind::Discovery, NoticeState::Warning));
    assert!(lost.iter().all(|notice| &*notice.name == NAME && notice.cause.is_some()), "{lost:?}");
    let instance = running.handle.instance().unwrap();
    assert_eq!((&*registration.service, &*registration.env), (NAME, "test"));
    assert_eq!(&*registration.instance, instance.id.as_str());
    // Calls go on meanwhile.
    assert_eq!(channel.get("/").send().await.unwrap().status(), 200);

    memory.fail(false);
    let back = [next(&mut heard).await, next(&mut heard).await];
    assert!(back.iter().all(|notice| notice.state == NoticeState::Passing), "{back:?}");
    assert_eq!(back.each_ref().map(|notice| notice.open), [1, 0]);
    let told = lost.iter().find(|notice| notice.kind == back[1].kind).unwrap();
    assert_eq!(back[1].since, told.since, "since when it had been in trouble");

    eventually("the webhook heard all of it", || running.handle.webhook().delivered == 4).await;
    let bodies = listener.heard();
    let sent = |notice: &Notice| bodies.iter().any(|body| body.contains(&format!("{:?}", &*notice.text)));
    assert!(lost.iter().chain(&back).all(sent), "{bodies:?}");
    let first = bodies.iter().find(|body| body.contains("\"kind\":\"registration\"")).unwrap();
    for part in ["\"service\":\"orders\"", "\"env\":\"test\"", "\"state\":\"critical\"", "\"since\":\"20"] {
        assert!(first.contains(part), "{part} in {first}");
    }
    assert!(running.stop().await.is_clean());
    listener.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_turns_is_told_and_one_that_flickers_is_not() {
    let (check, well) = switched("database");
    let (flickering, flickers) = switched("cache");
    let app = app(&Memory::new())
        .with_config("[service.notices]\ndelay = \"1500ms\"")
        .check(check)
        .check(flickering);
    let running = Running::start(app).await;
    let mut heard = running.handle.notices();
    well.store(0, SeqCst);
    let flicker = tokio::spawn(async move {
        loop {
            flickers.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    });
    let fails = next(&mut heard).await;
    assert_eq!(
        (fails.kind, &*fails.name, fails.state),
        (NoticeKind::Check, "database", NoticeState::Critical)
    );
    assert_eq!(fails.text.as_ref(), "check `database` is critical: it is away");
    well.store(1, SeqCst);
    let passes = next(&mut heard).await;
    assert_eq!((&*passes.name, passes.state, passes.open), ("database", NoticeState::Passing, 0));
    flicker.abort();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_refuses_is_told_until_it_is_no_instance_any_more() {
    let memory = Memory::new();
    let peer = Running::start(app(&memory)).await;
    let caller =
        app(&Memory::new()).with_config(notices("http://127.0.0.1:9/")).with_registry(memory.clone());
    let caller = Running::start(caller.with_config("[service]\nname = \"caller\"")).await;
    let mut heard = caller.handle.notices();
    let channel = caller.handle.channel(NAME).unwrap();
    assert_eq!(channel.get("/").send().await.unwrap().status(), 200);
    // It goes without a word, and its record stays.
    let record = peer.handle.instance().unwrap();
    assert!(peer.stop().await.is_clean());
    let mut ghost = (*record).clone();
    ghost.id = meshwork::Instance::new(ghost.service.clone()).id;
    memory.put(ghost.clone());
    let silent = next(&mut heard).await;
    assert_eq!((silent.kind, silent.state), (NoticeKind::Peer, NoticeState::Warning));
    assert_eq!(&*silent.name, ghost.id.as_str());
    memory.forget(&ghost.service, &ghost.id);
    let over = next(&mut heard).await;
    assert_eq!((&*over.name, over.state, over.open), (ghost.id.as_str(), NoticeState::Passing, 0));
    assert!(caller.stop().await.is_clean());
}

/// What a webhook does that does not take notices.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Ill {
    Refuses,
    Hangs,
    Mute,
    Answers500,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_that_does_not_take_notices_holds_up_neither_calls_nor_the_stop() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (gone, silent) = (closed.local_addr().unwrap(), mute.local_addr().unwrap());
    drop(closed);
    let (hangs, fails) =
        (Listener::start(None).await, Listener::start(Some(StatusCode::INTERNAL_SERVER_ERROR)).await);
    let trials = [
        (Ill::Refuses, url(gone)),
        (Ill::Mute, url(silent)),
        (Ill::Hangs, hangs.url()),
        (Ill::Answers500, fails.url()),
    ];
    let trials = trials.map(|(ill, url)| async move {
        let (check, well) = switched("database");
        let memory = Memory::new();
        let settle = "[service.readiness]\non_loss = \"keep\"";
        let delay = "[service.notices]\ndelay = \"0s\"";
        let app = app(&memory).with_config(notices(&url)).with_config(delay).with_config(settle).check(check);
        let running = Running::start(app).await;
        let (handle, mut heard) = (running.handle.clone(), running.handle.notices());
        // Many more than fit into the queue, while calls go on.
        let channel = handle.channel(NAME).unwrap();
        for _ in 0..40 {
            well.fetch_add(1, SeqCst);
            next(&mut heard).await;
            let call = channel.timeout(Duration::from_secs(10)).get("/").send().await.unwrap();
            assert_eq!(call.status(), 200, "{ill:?}");
        }
        eventually("one has failed and others gave way", || {
            let stats = handle.webhook();
            stats.failed > 0 && stats.dropped > 0
        })
        .await;
        let began = Instant::now();
        let report = running.stop().await;
        assert!(report.is_clean(), "{ill:?}: {report}");
        // 50 ms to settle, half a second for the webhook, and a slow machine.
        assert!(began.elapsed() < Duration::from_millis(2_500), "{ill:?}: {:?}", began.elapsed());
        let stats = handle.webhook();
        assert_eq!(stats.delivered, 0, "{ill:?}");
        (ill, stats, began.elapsed())
    });
    for (ill, stats, took) in futures_util::future::join_all(trials).await {
        println!("{ill:?}: {stats:?}, stopped in {took:?}");
    }
    assert!(hangs.heard().len() > 1 && fails.heard().len() > 1, "each is tried twice");
    hangs.running.handle.stop();
    fails.running.stop().await;
    hangs.running.ended().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_at_the_stop_is_still_told() {
    let listener = Listener::start(Some(StatusCode::OK)).await;
    let (check, well) = switched("database");
    let app = app(&Memory::new()).with_config(notices(&listener.url())).check(check);
    let running = Running::start(app).await;
    let mut heard = running.handle.notices();
    well.store(0, SeqCst);
    next(&mut heard).await;
    let handle = running.handle.clone();
    assert!(running.stop().await.is_clean());
    assert_eq!(handle.webhook().delivered, 1);
    assert_eq!(listener.heard().len(), 1);
    listener.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_webhook_holds_from_the_next_notice_on() {
    let (first, second) =
        (Listener::start(Some(StatusCode::OK)).await, Listener::start(Some(StatusCode::OK)).await);
    let dir = tempfile::tempdir().unwrap();
    let say = |url: &str| std::fs::write(dir.path().join("default.toml"), notices(url)).unwrap();
    say(&first.url());
    let (check, well) = switched("database");
    let app = app(&Memory::new()).with_config_dir(dir.path()).check(check);
    let running = Running::start(app).await;
    well.store(0, SeqCst);
    eventually("the first hears it", || first.heard().len() == 1).await;
    say(&second.url());
    let reloaded = running.handle.reload().await.unwrap();
    assert_eq!(&*reloaded.restart_needed, &[] as &[Box<str>], "{reloaded}");
    well.store(1, SeqCst);
    eventually("the second hears it", || second.heard().len() == 1).await;
    assert_eq!(first.heard().len(), 1);
    for app in [running, first.running, second.running] {
        app.stop().await;
    }
}
