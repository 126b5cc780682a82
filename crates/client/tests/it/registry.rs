//! What the registry says and does not say, and how nodes come and go.

use std::{sync::Arc, time::Duration};

use meshwork_client::{CallErrorKind, ConnectionState, Missing};
use meshwork_core::{Error, Seen, Status};
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};

use crate::{
    peer::{Peer, frozen, refused},
    support::{MS, Registry, foreign, native, tasks_left, text, until},
};

#[tokio::test]
async fn a_call_waits_for_the_first_answer_of_the_registry() {
    let registry = Registry::pending();
    let channel = registry.channel();
    let peer = Peer::native("users-1").await;
    let call = tokio::spawn(text(channel.get("/")));
    time::sleep(50 * MS).await;
    assert!(!call.is_finished());
    registry.set([native("users-1", "http", peer.addr)]);
    assert_eq!(call.await.unwrap().unwrap(), "users-1");
}

#[tokio::test]
async fn a_registry_that_never_answers_is_named_with_its_cause() {
    let registry = Registry::pending();
    let channel = registry.channel();
    registry.fail(Error::unavailable("listing `users`"));
    let error = text(channel.timeout(100 * MS).get("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::RegistryUnavailable);
    let chain = meshwork_core::ErrorChain(&error).to_string();
    assert!(chain.contains("listing `users`"), "{chain}");
}

#[tokio::test]
async fn a_question_that_no_registry_can_answer_fails_at_once() {
    let registry = Registry::pending();
    let channel = registry.channel();
    registry.fail(Error::invalid("query parameter `tag`"));
    let begun = Instant::now();
    let error = text(channel.get("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::RegistryUnavailable);
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn an_empty_set_fails_at_once_unless_the_call_waits() {
    let registry = Registry::of([]);
    let channel = registry.channel();
    let begun = Instant::now();
    let error = text(channel.get("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NoInstance);
    assert!(begun.elapsed() < Duration::from_secs(1));

    let call = tokio::spawn(text(channel.wait_for_ready(true).get("/")));
    time::sleep(50 * MS).await;
    let peer = Peer::native("users-1").await;
    registry.set([native("users-1", "http", peer.addr)]);
    assert_eq!(call.await.unwrap().unwrap(), "users-1");
}

#[tokio::test]
async fn one_live_and_two_refused_instances_fail_no_call_from_the_first_on() {
    let live = Peer::native("users-1").await;
    let instances = [
        native("users-0", "http", refused().await),
        native("users-1", "http", live.addr),
        native("users-2", "http", refused().await),
    ];
    let registry = Registry::of(instances);
    let channel = registry.channel();
    let begun = Instant::now();
    let mut calls = Vec::new();
    for _ in 0..200 {
        calls.push(tokio::spawn(text(channel.get("/"))));
        time::sleep(MS).await;
    }
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "users-1");
    }
    let dials = begun.elapsed().as_millis() / 80 + 2;
    for node in channel.nodes().iter().filter(|node| node.state != ConnectionState::Connected) {
        assert!(u128::from(node.failed_dials) <= dials, "{} dials", node.failed_dials);
    }
    assert!(registry.has_seen("users-0", Seen::Refused) && registry.has_seen("users-1", Seen::Itself));
}

#[tokio::test]
async fn when_every_instance_refuses_the_error_lists_the_dials_soon() {
    let registry = Registry::of([
        native("users-0", "http", refused().await),
        foreign("users-1", "http", refused().await),
    ]);
    let begun = Instant::now();
    let error = text(registry.channel().get("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Connect);
    assert_eq!(error.attempts().len(), 2, "{error}");
    assert!(error.attempts().iter().all(|attempt| attempt.code == "refused"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_listener_with_nobody_behind_it_is_no_connection() {
    let (frozen, _task) = frozen().await;
    let live = Peer::native("users-2").await;
    let registry = Registry::of([
        native("users-0", "http", frozen),
        foreign("users-1", "grpc", frozen),
        native("users-2", "http", live.addr),
    ]);
    let channel = registry.channel_with(|config| config.connect_timeout = 100 * MS);
    for _ in 0..50 {
        assert_eq!(text(channel.timeout(5000 * MS).get("/")).await.unwrap(), "users-2");
    }
}

#[tokio::test]
async fn nodes_that_stay_keep_their_connection_and_those_that_leave_are_dialled_no_more() {
    let (one, two) = (Peer::native("users-1").await, Peer::native("users-2").await);
    let stays = Arc::new(native("users-1", "http", one.addr));
    let registry = Registry::pending();
    registry.set_shared(vec![Arc::clone(&stays), Arc::new(native("users-2", "http", two.addr))]);
    let channel = registry.channel();
    channel.ready().await.unwrap();
    until("both are connected", || channel.nodes().iter().filter(|node| node.connects == 1).count() == 2)
        .await;

    registry.set_shared(vec![Arc::clone(&stays)]);
    until("the node is gone", || two.open() == 0 && channel.nodes().len() == 1).await;
    // A changed record at the same address is the same node.
    let mut heavier = meshwork_core::Instance::clone(&stays);
    heavier.weight = 200;
    registry.set_shared(vec![Arc::new(heavier)]);
    until("the new weight is seen", || channel.nodes()[0].instance.weight == 200).await;
    assert_eq!(text(channel.get("/")).await.unwrap(), "users-1");
    assert_eq!((one.connections(), two.connections()), (1, 1));
}

#[tokio::test]
async fn an_instance_that_is_not_up_gets_no_call() {
    let (one, two) = (Peer::native("users-1").await, Peer::native("users-2").await);
    let mut unready = native("users-1", "http", one.addr);
    unready.status = meshwork_core::Status::Unready;
    let channel = Registry::of([unready, native("users-2", "http", two.addr)]).channel();
    for _ in 0..20 {
        assert_eq!(text(channel.get("/")).await.unwrap(), "users-2");
    }
}

#[tokio::test]
async fn tls_endpoints_fail_with_a_word_about_it() {
    let channel = Registry::of([foreign("users-1", "https", refused().await)]).channel();
    let error = text(channel.get("/")).await.unwrap_err();
    assert!(error.to_string().contains("needs TLS"), "{error}");
}

#[tokio::test]
async fn waiting_calls_are_bounded() {
    let registry = Registry::pending();
    let channel = registry.channel_with(|config| config.max_waiting = 2);
    let waiting = [tokio::spawn(text(channel.get("/"))), tokio::spawn(text(channel.get("/")))];
    tokio::task::yield_now().await;
    let mut kind = None;
    for _ in 0..100 {
        kind = text(channel.timeout(20 * MS).get("/")).await.err().map(|error| error.kind());
        if kind == Some(CallErrorKind::Overloaded) {
            break;
        }
    }
    assert_eq!(kind, Some(CallErrorKind::Overloaded));
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn several_addresses_of_an_instance_are_one_node_and_the_one_that_answers_is_used() {
    let peer = Peer::native("users-1").await;
    // A full queue of new connections: the kernel answers nothing at all.
    let silent = tokio::net::TcpSocket::new_v4().unwrap();
    silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let silent = silent.listen(1).unwrap();
    let silent_addr = silent.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(Ok(queued)) = time::timeout(50 * MS, tokio::net::TcpStream::connect(silent_addr)).await {
        queue.push(queued);
    }
    for (first, within) in [(refused().await, 200 * MS), (silent_addr, 900 * MS)] {
        let mut record = native("users-1", "http", first);
        record.endpoints.push(format!("http://{}", peer.addr).parse().unwrap());
        let channel = Registry::of([record]).channel();
        let begun = Instant::now();
        assert_eq!(text(channel.get("/")).await.unwrap(), "users-1");
        assert!(begun.elapsed() < within * 4, "{:?}", begun.elapsed());
        assert_eq!(channel.nodes().len(), 1);
    }
    let port = peer.addr.port();
    let mut named = native("users-1", "http", peer.addr);
    named.endpoints = std::iter::once(format!("http://localhost:{port}").parse().unwrap()).collect();
    assert_eq!(text(Registry::of([named]).channel().get("/")).await.unwrap(), "users-1");
}

#[tokio::test]
async fn an_error_counts_where_each_instance_was_stopped_and_the_view_says_the_same() {
    let peer = Peer::native("users-1").await;
    let mut unready = native("users-2", "http", peer.addr);
    unready.status = Status::Unready;
    let mut linked = native("users-3", "http", peer.addr);
    linked.endpoints = vec!["http://169.254.1.1:80".parse().unwrap()];
    let down = native("users-4", "http", refused().await);
    let mut elsewhere = native("users-5", "http", peer.addr);
    elsewhere.endpoints = vec!["http://127.0.0.2:1".parse().unwrap()];
    let registry = Registry::of([unready.clone(), linked, down, elsewhere]);
    let channel = registry.channel();
    assert!(channel.cluster_view().http.is_none(), "nobody called");

    let error = text(channel.get("/")).await.unwrap_err();
    let funnel = *error.funnel().unwrap();
    assert_eq!((error.kind(), funnel.missing()), (CallErrorKind::Connect, Missing::Connection));
    let words = "(of 4 instances known: 1 not up, 1 at addresses that may not be called, 2 not connected)";
    assert!(error.to_string().contains(words), "{error}");
    assert_eq!(channel.cluster_view().http, Some(funnel));
    assert_eq!(channel.cluster_view().grpc, None);

    let error = text(channel.to_instance("users-4").get("/")).await.unwrap_err();
    assert!(error.to_string().contains("1 not asked for, 1 not connected"), "{error}");
    assert_eq!(error.attempts().len(), 1, "only what it asked for: {error}");
    let error = text(channel.to_instance("users-9").get("/")).await.unwrap_err();
    assert_eq!((error.kind(), error.funnel().unwrap().filtered), (CallErrorKind::NoInstance, 2));

    registry.set([unready]);
    until("the set is taken over", || channel.nodes().len() == 1).await;
    let error = text(channel.get("/")).await.unwrap_err();
    assert_eq!(error.funnel().unwrap().missing(), Missing::Filter, "{error}");
    registry.set([]);
    until("the set is taken over", || channel.nodes().is_empty()).await;
    let error = text(channel.get("/")).await.unwrap_err();
    assert_eq!(error.funnel().unwrap().missing(), Missing::Registry, "{error}");
}

#[tokio::test]
async fn a_call_pinned_to_an_instance_that_is_down_fails_soon_though_others_are_up() {
    let peer = Peer::native("users-1").await;
    let down = native("users-2", "http", refused().await);
    let channel = Registry::of([native("users-1", "http", peer.addr), down]).channel();
    text(channel.get("/")).await.unwrap();
    let begun = Instant::now();
    let error = text(channel.to_instance("users-2").get("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Connect, "{error}");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_changes_a_thousand_times_a_second_fails_no_call() {
    let mut peers = Vec::new();
    for name in ["users-1", "users-2", "users-3"] {
        peers.push(Peer::native(name).await);
        peers.last().unwrap().delay(2 * MS);
    }
    let record = |nth: usize| native(["users-1", "users-2", "users-3"][nth], "http", peers[nth].addr);
    let registry = Registry::of((0..3).map(record));
    let before = tasks_left();
    let channel = registry.channel();
    let end = Instant::now() + Duration::from_secs(1);
    let mut calls = JoinSet::new();
    let mut changes = 0;
    while Instant::now() < end || changes < 300 {
        // One goes and comes; the two others stay or change their weight.
        let (gone, changed) = (changes % 3, (changes / 3) % 3);
        registry.set((0..3).filter(|nth| *nth != gone).map(|nth| {
            let mut record = record(nth);
            record.weight = if nth == changed { 50 + (changes % 50) as u16 } else { 100 };
            record
        }));
        changes += 1;
        calls.spawn(text(channel.post("/")));
        time::sleep(MS).await;
    }
    let results = calls.join_all().await;
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {}", failed.len(), results.len(), failed[0]);
    registry.set([record(0)]);
    until("one is left and nothing hangs on the others", || {
        channel.nodes().len() == 1 && peers[1].open() + peers[2].open() == 0
    })
    .await;
    drop(channel);
    until("nothing is left of it", || tasks_left() <= before).await;
}
