//! Moving from one registry to the other while somebody watches.

use std::{sync::Arc, time::Duration};

use meshwork_core::{Status, Watch};
use meshwork_registry::dual::{Read, Write};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Rig, eventually, ids, instance, shows, state, users};

/// Watches until it is stopped: an instance that was shown must stay the very same record.
fn guard(watch: &Watch, stop: &CancellationToken) -> JoinHandle<usize> {
    let (mut watch, stop) = (watch.clone(), stop.clone());
    tokio::spawn(async move {
        let (mut shown, mut views) = (None, 0);
        loop {
            let view = tokio::select! {
                view = watch.changed() => view,
                () = stop.cancelled() => return views,
            };
            views += 1;
            let Some(known) = view.known() else {
                assert!(shown.is_none(), "what was known became unknown");
                continue;
            };
            assert_eq!(ids(&view), ["a"], "the instance left the view");
            assert_eq!(known[0].status, Status::Up);
            let record = shown.get_or_insert_with(|| Arc::clone(&known[0]));
            assert!(Arc::ptr_eq(record, &known[0]), "a node would be looked at anew");
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_service_moves_over_without_anybody_noticing() {
    let rig = Rig::with(|dual| dual.write(Write::Primary).read(Read::Primary));
    let steering = rig.dual.steering();
    let registration = rig.registry().register(instance("a", 81));
    registration.live().await.unwrap();
    let watch = rig.watch();
    shows(&watch, &["a"]).await;
    rig.truth_is(&["a"], &[]).await;
    let stop = CancellationToken::new();
    let guard = guard(&watch, &stop);
    let settle = || sleep(Duration::from_secs(3));

    steering.write(Write::Both);
    rig.truth_is(&["a"], &["a"]).await;
    settle().await;
    steering.read(Read::Union);
    settle().await;
    steering.write(Write::Secondary);
    rig.truth_is(&[], &["a"]).await;
    settle().await;
    state(&registration, "live").await;
    steering.read(Read::Secondary);
    settle().await;
    // The old one may be switched off now.
    rig.primary.partition(true);
    settle().await;
    assert!(watch.latest().staleness().is_fresh());
    registration.update(|instance| instance.weight = 1);
    stop.cancel();
    guard.await.unwrap();
    eventually("the view goes on", || watch.latest().value()[0].weight == 1).await;

    // And back again, all at once.
    rig.primary.partition(false);
    steering.write(Write::Primary);
    steering.read(Read::Union);
    rig.truth_is(&["a"], &[]).await;
    shows(&watch, &["a"]).await;
    registration.deregister().await.unwrap();
    shows(&watch, &[]).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_before_something_else_stands() {
    let rig = Rig::with(|dual| dual.write(Write::Primary));
    let registration = rig.registry().register(instance("a", 81));
    registration.live().await.unwrap();
    rig.secondary.fail(true);
    rig.dual.steering().write(Write::Secondary);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.truth(), [vec!["a".to_owned()], Vec::new()]);
    assert_eq!(state(&registration, "live").await.as_str(), "live");
    rig.secondary.fail(false);
    rig.truth_is(&[], &["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_side_left_and_taken_again_ends_up_announced() {
    let rig = Rig::new();
    let registration = rig.registry().register(instance("a", 81));
    rig.truth_is(&["a"], &["a"]).await;
    for _ in 0..50 {
        rig.dual.steering().write(Write::Primary);
        tokio::task::yield_now().await;
        rig.dual.steering().write(Write::Secondary);
        tokio::task::yield_now().await;
        rig.dual.steering().write(Write::Both);
        tokio::task::yield_now().await;
    }
    rig.truth_is(&["a"], &["a"]).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(rig.truth(), [vec!["a".to_owned()], vec!["a".to_owned()]]);
    registration.deregister().await.unwrap();
    assert_eq!(rig.truth(), [Vec::<String>::new(), Vec::new()]);
}

#[tokio::test(start_paused = true)]
async fn who_moved_over_stays_when_the_new_registry_goes_away_later() {
    let rig = Rig::with(|dual| dual.write(Write::Both));
    let registration = rig.registry().register(instance("a", 81));
    let watch = rig.watch();
    shows(&watch, &["a"]).await;
    rig.truth_is(&["a"], &["a"]).await;
    sleep(Duration::from_secs(1)).await;
    rig.dual.steering().write(Write::Secondary);
    rig.truth_is(&[], &["a"]).await;
    sleep(Duration::from_secs(31)).await;
    rig.secondary.fail(true);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(ids(&watch.latest()), ["a"], "the old registry's empty set is older news");
    drop(registration);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_steered_to_a_silent_registry_keeps_what_it_knows() {
    let rig = Rig::with(|dual| dual.read(Read::Primary).write(Write::Primary));
    rig.primary.put(instance("a", 81));
    rig.secondary.partition(true);
    let watch = rig.watch();
    shows(&watch, &["a"]).await;
    rig.dual.steering().read(Read::Secondary);
    sleep(Duration::from_secs(30)).await;
    let view = watch.latest();
    assert_eq!(ids(&view), ["a"]);
    let cause = view.staleness().cause().unwrap().to_string();
    assert!(cause.contains("secondary side `two`"), "{cause}");
    rig.secondary.put(instance("b", 82));
    rig.secondary.partition(false);
    shows(&watch, &["b"]).await;
    assert!(timeout(Duration::from_secs(1), watch.ready()).await.is_ok());
    assert_eq!(rig.primary.instances(&users()).len(), 1);
}
