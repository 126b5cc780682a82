//! A second attempt for calls that take long, where the configuration asks for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use meshwork_client::{CallError, CallErrorKind, Channel, ClientConfig, MethodConfig};
use meshwork_core::{Delivered, Verdict};
use tokio::time;

use crate::{
    peer::{Peer, frozen},
    support::{LIMIT, MS, Registry, native, text, until},
};

/// Calls that are made so that latencies are known.
const CALLS: usize = 150;

/// A channel whose latencies are known, and its two peers.
async fn warm(change: impl FnOnce(&mut ClientConfig)) -> (Channel, [Peer; 2]) {
    let peers = [Peer::native("users-1").await, Peer::native("users-2").await];
    let records = [native("users-1", "http", peers[0].addr), native("users-2", "http", peers[1].addr)];
    let channel = Registry::of(records).channel_with(change);
    channel.ready().await.unwrap();
    until("both are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
    for _ in 0..CALLS {
        text(channel.get("/users")).await.unwrap();
    }
    (channel, peers)
}

/// Makes calls until one has met the first peer, which hangs.
async fn meet(channel: &Channel, peers: &[Peer; 2]) -> Result<String, CallError> {
    peers[0].hang(true);
    let before = peers[0].requests();
    for _ in 0..1000 {
        let answer = text(channel.get("/users")).await;
        if peers[0].requests() > before {
            return answer;
        }
    }
    panic!("no call met the first peer");
}

#[tokio::test]
async fn a_call_that_takes_long_is_answered_by_another_node() {
    let (channel, peers) = warm(|config| config.hedge = true).await;
    let hedges = Arc::new(AtomicUsize::new(0));
    peers[1].script({
        let hedges = Arc::clone(&hedges);
        move |request| {
            if request.headers().get("meshwork-attempt").is_some_and(|nth| nth == "1") {
                hedges.fetch_add(1, Ordering::SeqCst);
            }
            Response::new(Full::from("users-2"))
        }
    });
    assert_eq!(meet(&channel, &peers).await.unwrap(), "users-2");
    assert!(hedges.load(Ordering::SeqCst) > 0, "it says that it is no first attempt");
    until("the other attempt is cancelled", || peers[0].running() == 0).await;
    let nodes = channel.nodes();
    assert!(nodes.iter().all(|node| node.inflight == 0 && node.failures == 0), "to lose is no failure");
}

#[tokio::test]
async fn when_one_attempt_fails_the_other_is_waited_for() {
    // Without retries, so that both peers are asked by a hedge only.
    let (channel, peers) = warm(|config| {
        config.hedge = true;
        config.retry.attempts = 1;
    })
    .await;
    peers[0].delay(500 * MS);
    peers[1].say(503, &[]);
    for _ in 0..20 {
        let before = [peers[0].requests(), peers[1].requests()];
        let answer = text(channel.get("/users")).await;
        if peers[0].requests() > before[0] && peers[1].requests() > before[1] {
            assert_eq!(answer.unwrap(), "users-1");
            return;
        }
    }
    panic!("no call met both peers");
}

#[tokio::test]
async fn a_hedge_that_finds_no_place_costs_no_retry() {
    let peer = Peer::native("users-1").await;
    let (silent, _task) = frozen().await;
    let records = [native("users-1", "http", peer.addr), native("users-2", "http", silent)];
    let channel = Registry::of(records).channel_with(|config| {
        config.hedge = true;
        config.connect_timeout = 6 * LIMIT;
        (config.retry.budget, config.retry.min_per_second) = (0.0, 1);
    });
    for _ in 0..CALLS {
        text(channel.get("/users")).await.unwrap();
    }
    peer.hang(true);
    let call = tokio::spawn(text(channel.timeout(Duration::from_secs(1)).get("/users")));
    until("the peer has the call", || peer.running() == 1).await;
    // Time for a hedge, for which the other node has no connection.
    time::sleep(200 * MS).await;
    peer.cut();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.attempts()[0].then, "retried", "{error}");
}

#[tokio::test]
async fn an_error_lists_both_attempts_that_were_in_flight_when_the_time_was_over() {
    let (channel, peers) = warm(|config| config.hedge = true).await;
    peers.iter().for_each(|peer| peer.hang(true));
    // A limit with a timer of its own, and one that is kept in the list.
    for limit in [300 * MS, Duration::from_secs(2)] {
        let before = [peers[0].requests(), peers[1].requests()];
        let error = text(channel.timeout(limit).get("/users")).await.unwrap_err();
        let asked = [0, 1].map(|nth| peers[nth].requests() - before[nth]);
        assert_eq!((asked, error.kind()), ([1, 1], CallErrorKind::Deadline), "{error}");
        assert_eq!(error.delivered(), Delivered::Maybe);
        let attempts = error.attempts();
        assert_eq!(attempts.len(), 2, "{error}");
        assert_ne!(attempts[0].instance, attempts[1].instance);
        assert!(attempts[0].elapsed > attempts[1].elapsed, "in the order in which they began: {error}");
        assert!(attempts.iter().all(|attempt| attempt.then == "the call's time is over"), "{error}");
        until("both are cancelled", || peers.iter().all(|peer| peer.running() == 0)).await;
    }
    assert!(channel.nodes().iter().all(|node| node.inflight == 0));
}

#[tokio::test]
async fn nothing_is_hedged_unless_the_configuration_asks_for_it() {
    let settings: [fn(&mut ClientConfig); 2] = [
        |_| {},
        |config| {
            config.hedge = true;
            let mut method = MethodConfig::default();
            method.hedge = Some(false);
            config.methods.insert("users".into(), method);
        },
    ];
    for set in settings {
        let (channel, peers) = warm(set).await;
        let channel = channel.timeout(Duration::from_millis(500));
        let error = meet(&channel, &peers).await.unwrap_err();
        assert_eq!((error.kind(), error.attempts().len()), (CallErrorKind::Deadline, 1));
    }
}

#[tokio::test]
async fn what_may_not_run_twice_is_never_hedged() {
    let (channel, peers) = warm(|config| config.hedge = true).await;
    let channel = channel.timeout(Duration::from_millis(500));
    peers[0].hang(true);
    let mut failed = 0;
    let before = peers[0].requests() + peers[1].requests();
    let mut made = 0;
    while failed == 0 && made < 1000 {
        let answer = channel.post("/users").body(Bytes::from_static(b"x")).send().await;
        failed += usize::from(answer.is_err());
        made += 1;
    }
    assert_eq!(failed, 1, "one met the first peer");
    assert_eq!(peers[0].requests() + peers[1].requests() - before, made);
}
