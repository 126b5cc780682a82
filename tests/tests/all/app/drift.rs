//! The address of a process moves while it serves. In a network namespace of its own, whose addresses may be changed.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{Router, routing::get};
use meshwork::NoticeKind;
use meshwork_testkit::{etcd::Etcd, process::Program, truth::eventually};
use meshwork_tests::SERVICE;
use tokio::{sync::Semaphore, time::timeout};

use super::rig::{LIMIT, Running, app};

/// Set in the namespace.
const INSIDE: &str = "MESHWORK_TESTS_NAMESPACE";
/// Two interfaces of its own, the first with an address.
const PREPARE: &str = "ip link set lo up && ip link add mw0 type veth peer name mw1 && ip link set mw0 up \
                       && ip link set mw1 up && ip addr add 10.77.0.1/32 dev mw0";
/// The first interface has another address now; the old one is still reachable, elsewhere.
const MOVE: &str = "ip addr add 10.77.0.2/32 dev mw0 && ip addr add 10.77.0.1/32 dev mw1 && ip addr del 10.77.0.1/32 dev mw0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_follows_an_address_that_moves_and_calls_on_the_old_connection_finish() {
    if env::var_os(INSIDE).is_some() {
        let dir = tempfile::tempdir().unwrap();
        follows(&format!("[registry]\nuse = \"local\"\nlocal.dir = {:?}\n", dir.path())).await;
        shell(
            "ip addr flush dev mw1 && ip addr add 10.77.0.1/32 dev mw0 && ip addr del 10.77.0.2/32 dev mw0",
        )
        .await;
        let etcd = Etcd::single().start().await.unwrap();
        return follows(&format!("[registry]\nuse = \"etcd\"\netcd.endpoints = {:?}\n", etcd.endpoints()))
            .await;
    }
    let mut refusals = Vec::new();
    for way in [&["--net"][..], &["--map-root-user", "--net"]] {
        let trial = Program::new("unshare").args(way).args(["sh", "-c", PREPARE]).start().unwrap();
        if !trial.ended(LIMIT).await.unwrap().success() {
            refusals.push(trial.stderr().join(" "));
            continue;
        }
        let name =
            "app::drift::the_record_follows_an_address_that_moves_and_calls_on_the_old_connection_finish";
        let script = format!("{PREPARE} && exec \"$0\" --exact {name} --nocapture");
        let me = env::current_exe().unwrap();
        let inside = Program::new("unshare").args(way).args(["sh", "-c"]).arg(script).arg(&me);
        let played = inside.env(INSIDE, "1").start().unwrap();
        let status = played.ended(4 * LIMIT).await.unwrap();
        let (said, wrong) = (played.stdout(), played.stderr());
        assert!(
            status.success() && said.iter().any(|line| line.contains("1 passed")),
            "{said:#?} {wrong:#?}"
        );
        return;
    }
    println!("skipped: no network namespace with interfaces of its own: {}", refusals.join("; "));
}

async fn shell(script: &str) {
    let done = Program::new("sh").args(["-c", script]).start().unwrap();
    assert!(done.ended(LIMIT).await.unwrap().success(), "{script}: {:?}", done.stderr());
}

async fn follows(registry: &str) {
    let (entered, gate) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (enter, pass) = (Arc::clone(&entered), Arc::clone(&gate));
    let slow = get(move || async move {
        enter.add_permits(1);
        pass.acquire().await.unwrap().forget();
        "done"
    });
    let routes = Router::new().route("/", get(|| async { "hello" })).route("/slow", slow);
    let settings =
        "[service]\nhttp = \"0.0.0.0:0\"\n[service.advertise]\ninterface = \"mw0\"\nrecheck = \"200ms\"\n";
    let provider = app(SERVICE).with_config(registry).with_config(settings).http(routes);
    let provider = Running::start(provider).await;
    let mut notices = provider.handle.notices();
    let caller = app("caller").with_config(registry);
    let channel = caller.channel(SERVICE);
    let address = |host: &str| format!("{host}:{}", provider.addr().port());
    let called = || channel.nodes().iter().map(|node| node.address.to_string()).collect::<Vec<_>>();
    assert_eq!(channel.get("/").send().await.unwrap().status(), 200);
    assert_eq!(called(), [address("10.77.0.1")]);
    let id = provider.handle.instance().unwrap().id.clone();

    let under_way = tokio::spawn({
        let channel = channel.timeout(LIMIT);
        async move { channel.get("/slow").send().await.unwrap().text().await.unwrap() }
    });
    entered.acquire().await.unwrap().forget();
    let (over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let steady = tokio::spawn({
        let (channel, over, calls) = (channel.clone(), Arc::clone(&over), Arc::clone(&calls));
        async move {
            let mut failed = Vec::new();
            while !over.load(SeqCst) {
                if let Err(error) = channel.get("/").send().await {
                    failed.push(error.to_string());
                }
                calls.fetch_add(1, SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            failed
        }
    });

    shell(MOVE).await;
    let moved = timeout(LIMIT, notices.next()).await.unwrap().unwrap();
    assert_eq!(moved.kind, NoticeKind::Address, "{moved}");
    assert!(moved.text.contains("10.77.0.1") && moved.text.contains("10.77.0.2"), "{moved}");
    eventually(LIMIT, "the client calls the new address", || async { called() == [address("10.77.0.2")] })
        .await
        .unwrap();
    let before = calls.load(SeqCst);
    eventually(LIMIT, "calls go on", || async { calls.load(SeqCst) > before + 20 }).await.unwrap();
    assert!(!under_way.is_finished());
    gate.add_permits(1);
    assert_eq!(timeout(LIMIT, under_way).await.unwrap().unwrap(), "done");
    over.store(true, SeqCst);
    assert_eq!(steady.await.unwrap(), [] as [String; 0]);
    assert_eq!(provider.handle.instance().unwrap().id, id);
    println!("moved with {} calls, 0 failed", calls.load(SeqCst));
    assert!(provider.stop().await.is_clean());
}
