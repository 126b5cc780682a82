//! One subscription per query, shared, lingering, bounded.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use meshwork_core::{Discovery, ErrorKind, Query};
use meshwork_registry::{Driven, DriverOptions};
use tokio::time::{Instant, sleep, timeout};

use crate::scripted::{Answer, Scripted, eventually, service};

fn driven(answer: Answer) -> Driven<Scripted> {
    Driven::new(Scripted::new(answer), DriverOptions::default().with_seed(1))
}

#[tokio::test(start_paused = true)]
async fn equal_queries_share_one_subscription_and_other_parameters_do_not() {
    let driven = driven(Answer::Well);
    let query = Query::new(service("users"));
    let watches: Vec<_> = (0..100).map(|_| driven.watch(&query)).collect();
    for watch in &watches {
        assert_eq!(watch.ready().await.value().len(), 1);
    }
    assert_eq!(driven.backend().counts.subscribed.load(SeqCst), 1);
    driven.watch(&query.with("dc", "a")).ready().await;
    assert_eq!(driven.backend().counts.subscribed.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn nothing_lingers_when_nobody_is_left_who_could_watch_again() {
    let driven = driven(Answer::Well);
    let backend = std::sync::Arc::clone(driven.backend());
    let watch = driven.watch(&Query::new(service("users")));
    watch.ready().await;
    drop(driven);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(backend.counts.open.load(SeqCst), 1, "a watched one stays without its driver");
    let began = Instant::now();
    drop(watch);
    eventually("nothing lingers", || backend.counts.open.load(SeqCst) == 0).await;
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_subscription_lingers_for_30_s_after_its_last_watch() {
    let driven = driven(Answer::Well);
    let query = Query::new(service("users"));
    let counts = &driven.backend().counts;
    let watch = driven.watch(&query);
    watch.ready().await;
    drop(watch);
    sleep(Duration::from_secs(29)).await;
    let again = driven.watch(&query);
    assert!(again.latest().staleness().is_fresh(), "it was kept");
    assert_eq!(counts.subscribed.load(SeqCst), 1);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(counts.open.load(SeqCst), 1, "a watched one stays");
    let clone = again.clone();
    drop(again);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(counts.open.load(SeqCst), 1, "and a clone watches too");
    drop(clone);
    sleep(Duration::from_secs(31)).await;
    assert_eq!(counts.open.load(SeqCst), 0);
    assert_eq!(driven.stats().subscriptions.get(), 0);
    driven.watch(&query).ready().await;
    assert_eq!(counts.subscribed.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn at_most_16_subscriptions_list_at_once() {
    let driven = driven(Answer::After(Duration::from_millis(100)));
    let watches: Vec<_> = (0..100).map(|n| driven.watch(&service(&format!("s{n}")).into())).collect();
    for watch in &watches {
        watch.ready().await;
    }
    assert_eq!(driven.backend().counts.most_listing.load(SeqCst), 16);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_hangs_is_given_up_and_asked_again() {
    let driven = driven(Answer::Never);
    let mut watch = driven.watch(&service("users").into());
    let before = Instant::now();
    watch.changed().await;
    let view = watch.changed().await;
    assert_eq!(view.staleness().cause().unwrap().kind(), ErrorKind::Unavailable);
    assert_eq!(before.elapsed().as_secs(), 10);
    driven.backend().answers(Answer::Well);
    let ready = timeout(Duration::from_secs(15), watch.ready()).await.unwrap();
    assert!(ready.staleness().is_fresh());
}

#[tokio::test(start_paused = true)]
async fn a_broken_registry_is_not_stormed() {
    let driven = driven(Answer::Error(ErrorKind::Unavailable));
    let _watch = driven.watch(&service("users").into());
    sleep(Duration::from_secs(600)).await;
    let asked = driven.backend().counts.subscribed.load(SeqCst);
    assert!((120..600).contains(&asked), "{asked} in 10 minutes");
    driven.backend().answers(Answer::Error(ErrorKind::Denied));
    sleep(Duration::from_secs(60)).await;
    let before = driven.backend().counts.subscribed.load(SeqCst);
    sleep(Duration::from_secs(600)).await;
    let asked = driven.backend().counts.subscribed.load(SeqCst) - before;
    assert!(asked <= 10, "{asked} in 10 minutes, though refused");
}

#[test]
fn the_end_of_a_runtime_leaves_no_dead_topic() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let driven = driven(Answer::Well);
    let query = Query::new(service("users"));
    let first = runtime();
    let kept = first.block_on(async {
        let watch = driven.watch(&query);
        watch.ready().await;
        watch
    });
    drop(first);
    assert!(!kept.latest().staleness().is_fresh(), "nobody keeps it any more, and it says so");
    assert_eq!(kept.latest().value().len(), 1);
    runtime().block_on(async {
        let watch = driven.watch(&query);
        let view = timeout(Duration::from_secs(10), watch.ready()).await.unwrap();
        assert!(view.staleness().is_fresh());
        eventually("it is driven anew", || driven.backend().counts.driving.load(SeqCst) == 1).await;
    });
}
