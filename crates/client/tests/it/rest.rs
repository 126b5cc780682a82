//! A channel that nobody calls closes its connections, and opens them again without a failed call.

use std::time::Duration;

use meshwork_client::Channel;
use tokio::{task::JoinSet, time};

use crate::{
    peer::Peer,
    support::{MS, Registry, foreign, native, text, until},
};

fn restless(registry: &Registry) -> Channel {
    registry.channel_with(|config| config.idle = Some(100 * MS))
}

#[tokio::test]
async fn an_idle_channel_closes_its_connections_and_the_next_call_opens_them() {
    let (ours, theirs) = (Peer::native("users-1").await, Peer::foreign("nginx").await);
    let (our, their) = (native("users-1", "http", ours.addr), foreign("users-1", "http", theirs.addr));
    for (peer, record) in [(&ours, our), (&theirs, their)] {
        let registry = Registry::of([record.clone()]);
        let channel = restless(&registry);
        for round in 1..=2 {
            text(channel.post("/")).await.unwrap();
            assert_eq!((peer.open(), peer.connections()), (1, round));
            until("the channel rests", || peer.open() == 0).await;
            assert!(channel.nodes().is_empty());
        }
        // A set that changes meanwhile wakes nobody.
        registry.set([record, native("users-2", "http", crate::peer::refused().await)]);
        time::sleep(50 * MS).await;
        assert_eq!(peer.open(), 0);
        text(channel.post("/")).await.unwrap();
        assert_eq!(channel.nodes().len(), 2);
    }
}

#[tokio::test]
async fn a_channel_with_a_call_in_flight_or_waiting_does_not_rest() {
    let peer = Peer::native("users-1").await;
    let channel = restless(&Registry::of([native("users-1", "http", peer.addr)]));
    peer.delay(2500 * MS);
    text(channel.post("/")).await.unwrap();
    assert_eq!(peer.connections(), 1);

    let theirs = Peer::foreign("nginx").await;
    let foreign = restless(&Registry::of([foreign("users-1", "http", theirs.addr)]));
    theirs.hang(true);
    // A short limit, because long ones keep the beat going.
    let call = tokio::spawn(text(foreign.timeout(1900 * MS).post("/")));
    time::sleep(1500 * MS).await;
    assert_eq!(foreign.nodes()[0].inflight, 1);
    call.abort();

    let registry = Registry::of([]);
    let channel = restless(&registry);
    let call = tokio::spawn(text(channel.wait_for_ready(true).get("/")));
    time::sleep(1500 * MS).await;
    peer.delay(Duration::ZERO);
    registry.set([native("users-1", "http", peer.addr)]);
    call.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_come_just_as_the_channel_goes_to_rest_lose_nothing() {
    let peer = Peer::native("users-1").await;
    let registry = Registry::of([native("users-1", "http", peer.addr)]);
    let mut callers = JoinSet::new();
    for nth in 0..40u32 {
        let channel = restless(&registry);
        callers.spawn(async move {
            for round in 0..3 {
                text(channel.post("/")).await.unwrap();
                // The channel goes to rest a second after its last call, some beats later on a busy machine.
                time::sleep(Duration::from_millis(980) + (nth + round * 7) * 12 * MS).await;
            }
        });
    }
    callers.join_all().await;
    assert_eq!(peer.requests(), 120);
    assert!(peer.connections() > 60, "most of them rested: {} connections", peer.connections());
}
