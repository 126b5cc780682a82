//! Limits of calls: how many run at a time and begin per second, and what one too many is told.

use std::{num::NonZeroU32, time::Duration};

use futures_util::future::join_all;
use meshwork_client::{CallErrorKind, Channel, ClientConfig, LimitConfig, MethodConfig};
use meshwork_core::{Delivered, Verdict};
use tokio::time::{self, Instant};

use crate::{
    echo::{self, client, text as message},
    peer::Peer,
    support::{LIMIT, MS, Registry, foreign, native, text, until},
};

/// A channel with one connected peer.
async fn one(change: impl FnOnce(&mut ClientConfig)) -> (Channel, Peer) {
    let peer = Peer::native("users-1").await;
    let channel = Registry::of([native("users-1", "http", peer.addr)]).channel_with(change);
    channel.ready().await.unwrap();
    (channel, peer)
}

fn at_a_time(most: u32) -> LimitConfig {
    let mut limit = LimitConfig::default();
    limit.concurrency = NonZeroU32::new(most);
    limit
}

fn method(limit: LimitConfig) -> MethodConfig {
    let mut method = MethodConfig::default();
    method.limit = limit;
    method
}

#[tokio::test]
async fn no_more_calls_run_than_allowed_and_the_others_follow() {
    let (channel, peer) = one(|config| {
        config.limit = at_a_time(2);
        config.limit.longest_wait = LIMIT;
    })
    .await;
    peer.delay(10 * MS);
    let answers = join_all((0..20).map(|_| text(channel.get("/")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(peer.most(), 2);
    let [limit] = &channel.cluster_view().limits[..] else { panic!("there is one limit") };
    assert_eq!((limit.running, limit.waiting, limit.refused), (0, 0, 0));
}

#[tokio::test]
async fn a_call_one_too_many_is_refused_by_name_and_reaches_nobody() {
    let (channel, peer) = one(|config| {
        config.limit = at_a_time(1);
        config.limit.queue = 0;
        config.limit.origin = "`client.users.limit` (config/prod.toml:3:1)".into();
    })
    .await;
    peer.hang(true);
    let running = tokio::spawn(text(channel.get("/")));
    until("the peer has it", || peer.running() == 1).await;
    let error = text(channel.idempotent().get("/")).await.unwrap_err();
    assert_eq!((error.kind(), error.delivered()), (CallErrorKind::Overloaded, Delivered::No));
    let words = "calling `users`: refused by this client's limit of 1 calls at a time (`client.users.limit` \
                 (config/prod.toml:3:1)): too many calls wait";
    assert_eq!(error.to_string(), words);
    assert!(error.attempts().is_empty() && error.pushback().is_some());
    assert_eq!(peer.requests(), 1);
    let [limit] = &channel.cluster_view().limits[..] else { panic!("there is one limit") };
    assert_eq!((limit.method.as_deref(), limit.running, limit.refused), (None, 1, 1));
    running.abort();
    until("a dropped call gives its place back", || channel.cluster_view().limits[0].running == 0).await;
}

#[tokio::test]
async fn a_generated_client_sees_that_the_resource_is_exhausted() {
    let (addr, _server) = echo::tonic_server().await;
    let channel = Registry::of([foreign("users-1", "grpc", addr)]).channel_with(|config| {
        let mut limit = at_a_time(1);
        limit.queue = 0;
        config.methods.insert("test.Echo/Unary".into(), method(limit));
    });
    let (mut first, mut second) = (client(&channel), client(&channel));
    let running = tokio::spawn(async move { first.unary(message("hang")).await });
    until("it runs", || channel.cluster_view().limits[0].running == 1).await;
    let status = second.unary(message("hello")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("refused by this client's limit of 1 calls at a time"), "{status:?}");
    // Only the method is limited.
    let mut stream = second.server(message("a b")).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().text, "a");
    assert_eq!(channel.cluster_view().limits[0].method.as_deref(), Some("test.Echo/Unary"));
    running.abort();
}

#[tokio::test]
async fn a_stream_holds_no_place_once_it_has_begun() {
    let (addr, _server) = echo::tonic_server().await;
    let registry = Registry::of([foreign("users-1", "grpc", addr)]);
    let channel = registry.channel_with(|config| {
        config.limit = at_a_time(1);
        config.limit.queue = 0;
    });
    let mut stream = client(&channel).server(message("hang")).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().text, "first");
    assert_eq!(client(&channel).unary(message("hello")).await.unwrap(), "hello");
}

#[tokio::test]
async fn a_waiting_call_gives_up_at_its_own_deadline_or_after_the_longest_wait() {
    let (channel, peer) = one(|config| {
        config.limit = at_a_time(1);
        config.limit.longest_wait = 300 * MS;
    })
    .await;
    peer.hang(true);
    let running = tokio::spawn(text(channel.get("/")));
    until("the peer has it", || peer.running() == 1).await;
    for (asked, least, most) in [(channel.timeout(50 * MS), 50, 250), (channel.clone(), 300, 1200)] {
        let began = Instant::now();
        let error = text(asked.get("/")).await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Overloaded, "{error}");
        assert!(error.to_string().ends_with("no turn came in time"), "{error}");
        assert!((least * MS..most * MS).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
    running.abort();
}

#[tokio::test]
async fn a_method_obeys_its_own_limit_and_the_clients() {
    let (channel, peer) = one(|config| {
        config.limit = at_a_time(3);
        config.limit.longest_wait = LIMIT;
        let mut slow = at_a_time(1);
        slow.longest_wait = LIMIT;
        config.methods.insert("slow".into(), method(slow));
    })
    .await;
    peer.delay(5 * MS);
    let slow = join_all((0..6).map(|_| text(channel.get("/slow")))).await;
    assert!(slow.iter().all(Result::is_ok));
    assert_eq!(peer.most(), 1);
    let both = (0..12).map(|nth| text(channel.get(if nth % 2 == 0 { "/slow" } else { "/" })));
    assert!(join_all(both).await.iter().all(Result::is_ok));
    assert!((2..=3).contains(&peer.most()), "{}", peer.most());
    let limits = channel.cluster_view().limits;
    let listed: Vec<_> = limits.iter().map(|limit| (limit.method.as_deref(), limit.running)).collect();
    assert_eq!(listed, [(None, 0), (Some("slow"), 0)]);
}

#[tokio::test]
async fn calls_begin_no_faster_than_allowed() {
    let (channel, peer) = one(|config| {
        config.limit.rate = NonZeroU32::new(2);
        config.limit.burst = NonZeroU32::new(3);
        config.limit.longest_wait = Duration::ZERO;
    })
    .await;
    let answers = join_all((0..10).map(|_| text(channel.get("/")))).await;
    // On a machine that stops for half a second one more may begin.
    let begun = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!((3..=4).contains(&begun), "{begun}");
    assert_eq!(peer.requests(), begun);
    let error = answers.into_iter().find_map(Result::err).unwrap();
    let words = "refused by this client's limit of 2 calls a second (the limit of the client): too many calls a second";
    assert!(error.to_string().contains(words), "{error}");
    assert!(error.pushback().is_some_and(|pause| pause > Duration::ZERO), "{error:?}");
    assert_eq!(channel.cluster_view().limits[0].refused, 10 - begun as u64);
}

#[tokio::test]
async fn a_call_too_early_waits_for_its_turn_where_that_is_allowed() {
    let (channel, _peer) = one(|config| {
        config.limit.rate = NonZeroU32::new(20);
        config.limit.burst = NonZeroU32::new(1);
        config.limit.longest_wait = LIMIT;
    })
    .await;
    let began = Instant::now();
    for _ in 0..5 {
        text(channel.get("/")).await.unwrap();
    }
    assert!(began.elapsed() >= 199 * MS, "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_was_refused_earns_no_retries() {
    let peers = [Peer::native("users-1").await, Peer::native("users-2").await];
    let records = [native("users-1", "http", peers[0].addr), native("users-2", "http", peers[1].addr)];
    let channel = Registry::of(records).channel_with(|config| {
        config.limit = at_a_time(1);
        config.limit.queue = 0;
        (config.retry.budget, config.retry.min_per_second) = (0.05, 0);
    });
    channel.ready().await.unwrap();
    until("both are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
    peers.iter().for_each(|peer| peer.hang(true));
    let running = tokio::spawn(text(channel.get("/")));
    until("a peer has it", || peers.iter().any(|peer| peer.running() == 1)).await;
    for _ in 0..400 {
        text(channel.get("/")).await.unwrap_err();
    }
    running.abort();
    until("the place is free", || channel.cluster_view().limits[0].running == 0).await;
    assert_eq!(channel.cluster_view().limits[0].refused, 400);
    peers.iter().for_each(|peer| {
        peer.hang(false);
        peer.say(503, &[]);
    });
    let before = peers[0].requests() + peers[1].requests();
    text(channel.get("/")).await.unwrap_err();
    // A twentieth of the two calls that were made is no retry; of all 402 it would be twenty.
    assert_eq!(peers[0].requests() + peers[1].requests(), before + 1);
}

#[tokio::test]
async fn a_running_channel_takes_another_limit() {
    let (channel, peer) = one(|config| {
        config.limit = at_a_time(1);
        config.limit.longest_wait = LIMIT;
    })
    .await;
    let mut config = channel.config().clone();
    config.limit.concurrency = NonZeroU32::new(4);
    channel.reconfigure(&config);
    peer.delay(50 * MS);
    let answers = join_all((0..12).map(|_| text(channel.get("/")))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert!((2..=4).contains(&peer.most()), "{}", peer.most());
    config.limit = LimitConfig::default();
    channel.reconfigure(&config);
    assert!(channel.cluster_view().limits.is_empty());
    time::timeout(LIMIT, join_all((0..12).map(|_| text(channel.get("/"))))).await.unwrap();
    assert!(peer.most() > 4, "{}", peer.most());
}
