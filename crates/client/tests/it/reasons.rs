//! Why there is no endpoint: one answer in the error and in the view, with counts at each stage.

use std::sync::Arc;

use meshwork_client::{CallError, CallErrorKind, Channel, Funnel, Missing, balance::RoundRobin};
use meshwork_core::{Error, ErrorKind, Publisher, Scheme, Staleness, Status, Watch};
use tokio::time::Instant;

use crate::{
    peer::Peer,
    support::{LIMIT, MS, Registry, foreign, native, service, text, until},
};

/// The error's answer, which is the view's.
async fn reason(channel: &Channel) -> (CallError, Funnel) {
    let error = text(channel.timeout(300 * MS).get("/")).await.unwrap_err();
    let funnel = *error.funnel().unwrap_or_else(|| panic!("{error} tells no reason"));
    assert_eq!(channel.cluster_view().http, Some(funnel), "{error}");
    (error, funnel)
}

#[tokio::test]
async fn a_registry_that_has_not_answered_is_the_reason() {
    let registry = Registry::pending();
    let channel = registry.channel();
    let (error, funnel) = reason(&channel).await;
    assert_eq!((error.kind(), funnel.missing()), (CallErrorKind::RegistryUnavailable, Missing::Registry));
    assert!(!funnel.answered);
    assert!(error.to_string().ends_with("the registry has not answered yet"), "said once: {error}");
    registry.fail(Error::new(ErrorKind::Invalid, "there is no such datacenter"));
    until("the cause is told", || {
        channel.cluster_view().staleness.cause().is_some_and(|c| c.kind() == ErrorKind::Invalid)
    })
    .await;
    let (error, _) = reason(&channel).await;
    assert!(meshwork_core::ErrorChain(&error).to_string().contains("no such datacenter"), "{error:?}");
}

#[tokio::test]
async fn an_empty_registry_is_the_reason_and_so_is_one_that_was_empty_when_it_was_lost() {
    let publisher = Publisher::new(Arc::from([]));
    publisher.publish(Staleness::Fresh, Arc::from([]), Arc::new([]));
    let watch: Watch = publisher.watch();
    let channel = Channel::new(service(), watch, Default::default());
    let (error, funnel) = reason(&channel).await;
    assert_eq!((error.kind(), funnel.missing()), (CallErrorKind::NoInstance, Missing::Registry));
    assert!(error.to_string().contains("(of 0 instances known)"), "{error}");
    let cause = Arc::new(Error::new(ErrorKind::Unavailable, "the cable is cut"));
    publisher.restate(Staleness::Stale { since: Instant::now(), age: MS, cause });
    let (error, funnel) = reason(&channel).await;
    assert!(funnel.stale && funnel.missing() == Missing::Registry);
    assert!(error.to_string().contains("known when the registry could last be asked"), "{error}");
}

#[tokio::test]
async fn each_filter_is_counted_for_itself() {
    let peer = Peer::native("users-1").await;
    let mut unready = native("users-1", "http", peer.addr);
    unready.status = Status::Unready;
    let other_scheme = native("users-2", "https", peer.addr);
    let mut forbidden = native("users-3", "http", peer.addr);
    forbidden.endpoints = vec!["http://169.254.1.1:80".parse().unwrap()];
    let channel = Registry::of([unready, other_scheme, forbidden])
        .channel_with(|config| config.scheme = Some(Scheme::Http));
    let (error, funnel) = reason(&channel).await;
    assert_eq!((error.kind(), funnel.missing()), (CallErrorKind::NoInstance, Missing::Filter));
    assert_eq!((funnel.not_up, funnel.unusable, funnel.forbidden), (1, 2, 1));
    let words = "(of 3 instances known: 1 not up, 1 without an endpoint that may be called, \
                 1 at addresses that may not be called)";
    assert!(error.to_string().contains(words), "{error}");
}

#[tokio::test]
async fn connections_that_are_missing_are_the_reason_and_so_are_those_that_are_full() {
    let down = native("users-1", "http", "127.0.0.1:1".parse().unwrap());
    let (error, funnel) = reason(&Registry::of([down]).channel()).await;
    assert_eq!((error.kind(), funnel.missing()), (CallErrorKind::Connect, Missing::Connection));
    assert_eq!(funnel.unconnected, 1);

    let peer = Peer::foreign("users-1").await;
    let registry = Registry::of([foreign("users-1", "http", peer.addr)]);
    let channel = registry.channel_with(|config| config.max_http1_connections = 1);
    peer.hang(true);
    let running = tokio::spawn(text(channel.get("/")));
    until("its only place is taken", || peer.running() == 1).await;
    let (error, funnel) = reason(&channel).await;
    assert_eq!((error.kind(), funnel.missing()), (CallErrorKind::Deadline, Missing::Room));
    assert_eq!(funnel.full, 1);
    running.abort();
}

#[tokio::test]
async fn the_ejected_are_counted_in_the_view_while_others_serve() {
    let peers = [Peer::native("users-1").await, Peer::native("users-2").await, Peer::native("users-3").await];
    let names = ["users-1", "users-2", "users-3"];
    let records = [0, 1, 2].map(|nth| native(names[nth], "http", peers[nth].addr));
    let channel =
        Registry::of(records).channel_with(|config| config.policy = Arc::new(RoundRobin::default()));
    channel.ready().await.unwrap();
    until("all are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
    peers[2].say(503, &[]);
    let end = Instant::now() + LIMIT;
    loop {
        let _some_fail = text(channel.post("/")).await;
        let funnel = channel.cluster_view().http.unwrap();
        assert_eq!(funnel.missing(), Missing::Nothing);
        if (funnel.ejected, funnel.usable) == (1, 2) {
            break;
        }
        assert!(Instant::now() < end, "{funnel}");
    }
    let view = channel.cluster_view();
    let ejected: Vec<_> = view.nodes.iter().filter(|node| node.ejected_for.is_some()).collect();
    assert_eq!(ejected.len(), 1);
    assert_eq!(ejected[0].instance.id.as_str(), "users-3");
}

#[tokio::test]
async fn idle_nodes_of_the_other_kind_let_no_more_of_the_failing_be_ejected() {
    let names = ["users-1", "users-2", "users-3", "users-4"];
    let mut peers = Vec::new();
    let mut records = Vec::new();
    for name in names {
        let peer = Peer::native(name).await;
        peer.say(503, &[]);
        let mut record = native(name, "http", peer.addr);
        record.endpoints.push(format!("grpc://{}", peer.addr).parse().unwrap());
        records.push(record);
        peers.push(peer);
    }
    let channel =
        Registry::of(records).channel_with(|config| config.policy = Arc::new(RoundRobin::default()));
    channel.ready().await.unwrap();
    until("all are connected", || {
        let nodes = channel.nodes();
        nodes.len() == 2 * names.len() && nodes.iter().all(|node| node.connects == 1)
    })
    .await;
    let end = Instant::now() + LIMIT;
    let (mut ejected, mut failing) = (0, 0);
    while failing < 3 {
        assert!(Instant::now() < end, "{failing} fail, {ejected} are ejected");
        let _fails = text(channel.post("/")).await;
        let nodes = channel.nodes();
        ejected = ejected.max(nodes.iter().filter(|node| node.ejected_for.is_some()).count());
        failing = nodes.iter().filter(|node| node.consecutive_failures >= 5).count();
    }
    assert_eq!(ejected, 1, "30 % of four are one");
}

#[tokio::test]
async fn hedges_are_counted_in_the_view_where_they_are_on() {
    let peers = [Peer::native("users-1").await, Peer::native("users-2").await];
    let records = || [0, 1].map(|nth| native(["users-1", "users-2"][nth], "http", peers[nth].addr));
    assert!(Registry::of(records()).channel().cluster_view().hedges.is_none());
    let channel = Registry::of(records()).channel_with(|config| config.hedge = true);
    channel.ready().await.unwrap();
    until("both are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
    for _ in 0..150 {
        text(channel.get("/")).await.unwrap();
    }
    peers[0].hang(true);
    let end = Instant::now() + LIMIT;
    while channel.cluster_view().hedges.unwrap().won == 0 {
        let _either = text(channel.timeout(500 * MS).get("/")).await;
        assert!(Instant::now() < end, "{:?}", channel.cluster_view().hedges);
    }
    assert!(channel.cluster_view().hedges.unwrap().sent >= 1);
}
