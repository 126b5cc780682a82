//! Parts of a service that calls are sent to by rule: lanes, shares, and what happens when a part is empty.

use std::{collections::BTreeSet, sync::Arc};

use meshwork_client::{
    CallErrorKind, Channel, Missing,
    balance::{Fallback, RoundRobin, Subset},
};
use meshwork_core::{Context, Delivered, Instance, Status, Verdict};

use tokio::time::Instant;

use crate::{
    peer::Peer,
    support::{LIMIT, Registry, native, text, until},
};

/// One instance of version 1 and one of version 2 and colour blue, behind these subsets.
async fn fleet(subsets: impl IntoIterator<Item = Subset>) -> (Channel, Registry, [Peer; 2]) {
    let peers = [Peer::native("users-1").await, Peer::native("users-2").await];
    let registry = Registry::of([plain(&peers), blue(&peers)]);
    let channel = registry.channel_with(|config| {
        config.policy = Arc::new(RoundRobin::default());
        config.subsets = subsets.into_iter().collect();
    });
    channel.ready().await.unwrap();
    until("both are connected", || channel.nodes().iter().all(|node| node.connects == 1)).await;
    (channel, registry, peers)
}

fn plain(peers: &[Peer; 2]) -> Instance {
    let mut record = native("users-1", "http", peers[0].addr);
    record.app_version = "1".into();
    record
}

fn blue(peers: &[Peer; 2]) -> Instance {
    let mut record = native("users-2", "http", peers[1].addr);
    record.app_version = "2".into();
    record.deployment = "next".into();
    record.labels = [("colour", "blue")].into_iter().collect();
    record
}

async fn answers(channel: &Channel) -> BTreeSet<String> {
    let mut answers = BTreeSet::new();
    for _ in 0..12 {
        answers.insert(text(channel.get("/")).await.unwrap());
    }
    answers
}

fn of<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[tokio::test]
async fn a_lane_leads_to_its_subset_and_calls_of_no_lane_stay_out_of_it() {
    let by = [
        Subset::named("blue").version("2"),
        Subset::named("blue").deployment("next"),
        Subset::named("blue").label("colour", "blue"),
    ];
    for subset in by {
        let (channel, _registry, _peers) = fleet([subset]).await;
        assert_eq!(answers(&channel).await, of(["users-1"]));
        assert_eq!(answers(&channel.lane("blue")).await, of(["users-2"]));
        assert_eq!(answers(&channel.lane("green")).await, of(["users-1"]), "a lane that has no subset here");
    }
}

#[tokio::test]
async fn the_lane_of_the_call_being_served_leads_on() {
    let (channel, _registry, _peers) = fleet([Subset::named("blue").version("2")]).await;
    let mut context = Context::default();
    context.lane = Some("blue".into());
    assert_eq!(context.clone().scope(answers(&channel)).await, of(["users-2"]));
    assert_eq!(context.clone().scope(answers(&channel.detached())).await, of(["users-1"]));
    assert_eq!(context.scope(answers(&channel.lane("red"))).await, of(["users-1"]), "the option wins");
}

#[tokio::test]
async fn a_share_of_the_calls_goes_to_a_subset_and_each_key_stays_on_its_side() {
    let (channel, _registry, peers) = fleet([Subset::named("canary").version("2").share(0.25)]).await;
    answers(&channel).await;
    let mut canaries = 0;
    for user in 0..400 {
        let channel = channel.hash(format!("user-{user}"));
        let first = text(channel.get("/")).await.unwrap();
        assert_eq!(text(channel.get("/")).await.unwrap(), first, "the key is user-{user}");
        canaries += u32::from(first == "users-2");
    }
    // Four standard deviations of a fair draw.
    assert!((66..=134).contains(&canaries), "{canaries}");
    assert!(peers[1].requests() < 300);
    let view = channel.cluster_view();
    let [canary] = &view.subsets[..] else { panic!("{:?}", view.subsets) };
    assert_eq!((&*canary.name, canary.share), ("canary", 0.25));
    assert_eq!(canary.http.map(|funnel| (funnel.usable, funnel.outside)), Some((1, 1)));
}

#[tokio::test]
async fn a_subset_without_instances_falls_back_as_it_is_told() {
    for (fallback, expected) in
        [(Fallback::Base, of(["users-1"])), (Fallback::Any, of(["users-1", "users-2"]))]
    {
        let subsets =
            [Subset::named("red").version("9").fallback(fallback), Subset::named("blue").version("2")];
        let (channel, _registry, _peers) = fleet(subsets).await;
        assert_eq!(answers(&channel.lane("red")).await, expected, "{fallback:?}");
    }
}

#[tokio::test]
async fn an_empty_strict_subset_is_named_in_the_error_with_counts_and_so_in_the_view() {
    let (channel, registry, peers) = fleet([Subset::named("blue").version("2").strict()]).await;
    assert_eq!(answers(&channel.lane("blue")).await, of(["users-2"]));
    registry.set([plain(&peers)]);
    until("the subset is empty", || channel.nodes().len() == 1).await;
    let error = text(channel.lane("blue").get("/")).await.unwrap_err();
    assert_eq!((error.kind(), error.delivered()), (CallErrorKind::NoInstance, Delivered::No));
    let words = "no instance of the subset `blue` takes new calls (of 1 instance known: 1 of no such subset)";
    assert!(error.to_string().contains(words), "{error}");
    let funnel = *error.funnel().unwrap();
    assert_eq!((funnel.missing(), funnel.outside), (Missing::Filter, 1));
    assert_eq!(channel.cluster_view().subsets[0].http, Some(funnel));
    assert_eq!(answers(&channel).await, of(["users-1"]), "its neighbours are unharmed");

    // Its only instance is there but not up.
    let mut leaving = blue(&peers);
    leaving.status = Status::Unready;
    registry.set([plain(&peers), leaving]);
    until("it is there", || channel.nodes().len() == 2).await;
    let error = text(channel.lane("blue").get("/")).await.unwrap_err();
    assert!(error.to_string().contains("1 not up, 1 of no such subset"), "{error}");
}

#[tokio::test]
async fn a_strict_subset_that_cannot_be_connected_to_fails_soon_though_others_are_up() {
    let (channel, registry, peers) = fleet([Subset::named("blue").version("2").strict()]).await;
    let mut down = blue(&peers);
    down.endpoints = vec!["http://127.0.0.1:1".parse().unwrap()];
    registry.set([plain(&peers), down]);
    until("it was taken over", || {
        channel.nodes().iter().any(|node| node.address.ends_with(":1") && node.failed_dials > 0)
    })
    .await;
    let error = text(channel.lane("blue").get("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Connect, "{error}");
    assert!(error.to_string().contains("1 of no such subset, 1 not connected"), "{error}");
    assert_eq!(error.attempts().len(), 1, "only those that it might have gone to: {error}");
}

#[tokio::test]
async fn a_retry_stays_in_a_strict_subset() {
    let (channel, _registry, peers) = fleet([Subset::named("blue").version("2").strict()]).await;
    answers(&channel).await;
    let before = peers[0].requests();
    peers[1].say(503, &[]);
    let error = text(channel.lane("blue").get("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Status, "{error}");
    assert_eq!(peers[0].requests(), before, "nothing of the lane meets the others");
}

#[tokio::test]
async fn a_running_channel_takes_other_subsets() {
    let (channel, _registry, peers) = fleet([]).await;
    assert_eq!(answers(&channel).await, of(["users-1", "users-2"]));
    let mut config = channel.config().clone();
    config.subsets = vec![Subset::named("blue").version("2")];
    channel.reconfigure(&config);
    until("the subsets are told", || channel.cluster_view().subsets.len() == 1).await;
    let end = Instant::now() + LIMIT;
    while answers(&channel).await != of(["users-1"]) {
        assert!(Instant::now() < end, "the subsets were not taken");
    }
    assert_eq!(answers(&channel.lane("blue")).await, of(["users-2"]));
    assert!(peers.iter().all(|peer| peer.connections() == 1));
}
