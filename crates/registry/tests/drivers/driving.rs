//! The one task that drives a backend.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use meshwork_core::{Discovery, Registry};
use meshwork_registry::{Driven, DriverOptions};
use tokio::time::sleep;

use crate::scripted::{Answer, Scripted, eventually, instance, service};

fn driven() -> Driven<Scripted> {
    Driven::new(Scripted::new(Answer::Well), DriverOptions::default().with_seed(1))
}

#[tokio::test(start_paused = true)]
async fn it_lives_as_long_as_any_subscription_or_claim() {
    let driven = driven();
    let counts = &driven.backend().counts;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(counts.drives.load(SeqCst), 0, "nobody needs it yet");
    let watches = [driven.watch(&service("a").into()), driven.watch(&service("b").into())];
    let registration = driven.register(instance(&service("c")));
    registration.live().await.unwrap();
    assert_eq!((counts.drives.load(SeqCst), counts.driving.load(SeqCst)), (1, 1));
    drop(watches);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(counts.driving.load(SeqCst), 1, "the claim needs it");
    registration.deregister().await.unwrap();
    eventually("nobody needs it", || counts.driving.load(SeqCst) == 0).await;
    driven.watch(&service("a").into()).ready().await;
    assert_eq!((counts.drives.load(SeqCst), counts.driving.load(SeqCst)), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn it_runs_again_after_a_back_off() {
    let driven = driven();
    let counts = &driven.backend().counts;
    let watch = driven.watch(&service("a").into());
    watch.ready().await;
    for times in 2..20 {
        driven.backend().crash.notify_one();
        eventually("it runs again", || counts.drives.load(SeqCst) == times).await;
    }
    assert_eq!(driven.stats().drives_lost.get(), 18);
}
