//! A kept node may have become someone else.

use meshwork_client::{CallErrorKind, ConnectionState};
use meshwork_core::Seen;

use crate::{
    peer::Peer,
    support::{MS, Registry, native, text, until},
};

#[tokio::test]
async fn no_call_reaches_a_process_of_another_service() {
    let (another, right) = (Peer::native("users-1").await, Peer::native("users-2").await);
    another.become_another("orders/orders-1");
    let registry =
        Registry::of([native("users-1", "http", another.addr), native("users-2", "http", right.addr)]);
    let channel = registry.channel();
    for _ in 0..50 {
        assert_eq!(text(channel.get("/")).await.unwrap(), "users-2");
    }
    until("the stranger was met", || registry.has_seen("users-1", Seen::Another)).await;
    assert_eq!(channel.nodes()[0].state, ConnectionState::Another);
    assert_eq!(another.requests(), 0);

    // Nothing is dialled again before the record changes.
    let dials = another.connections();
    another.become_another("users/users-1");
    let mut renewed = native("users-1", "http", another.addr);
    renewed.weight = 50;
    tokio::time::sleep(300 * MS).await;
    assert_eq!(another.connections(), dials);
    registry.set([renewed, native("users-2", "http", right.addr)]);
    until("it is back", || channel.nodes()[0].state == ConnectionState::Connected).await;
}

#[tokio::test]
async fn a_process_that_does_not_know_the_question_is_another() {
    let stranger = Peer::foreign("stranger").await;
    let registry = Registry::of([native("users-1", "http", stranger.addr)]);
    let error = text(registry.channel().get("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Connect);
    assert!(error.to_string().contains("somebody else"), "{error}");
    assert_eq!(stranger.requests(), 0);
}

#[tokio::test]
async fn a_successor_on_the_same_address_serves_but_for_pinned_calls() {
    let old = Peer::native("users-1").await;
    let registry = Registry::of([native("users-1", "http", old.addr)]);
    let channel = registry.channel();
    assert_eq!(text(channel.get("/")).await.unwrap(), "users-1");
    let addr = old.kill().await;
    let new = Peer::native_at(addr, "users-2").await;
    until("the successor is connected", || {
        channel.nodes()[0].confirmed.as_ref().is_some_and(|id| id.as_str() == "users-2")
    })
    .await;
    assert_eq!(text(channel.get("/")).await.unwrap(), "users-2");
    let error = text(channel.to_instance("users-1").get("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NoInstance);
    assert_eq!(new.requests(), 1);

    // Both records for a while: one node, named by who answers.
    registry.set([native("users-1", "http", addr), native("users-2", "http", addr)]);
    until("the set has the new name", || {
        let nodes = channel.nodes();
        nodes.len() == 1 && nodes[0].instance.id.as_str() == "users-2"
    })
    .await;
    assert_eq!(text(channel.to_instance("users-2").get("/")).await.unwrap(), "users-2");
    assert_eq!(new.connections(), 1);
}
