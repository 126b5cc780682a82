//! Requests that hang are bounded, leaving cuts them, and nothing stops the keeper.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use meshwork_core::{Discovery, ErrorKind, Registration, RegistrationState, Registry, Status};
use meshwork_registry::{Driven, DriverOptions};
use tokio::time::{Instant, advance, sleep};

use crate::scripted::{Answer, Scripted, eventually, instance, service};

fn driven(answer: Answer) -> Driven<Scripted> {
    Driven::new(Scripted::new(answer), DriverOptions::default().with_seed(1))
}

async fn live(driven: &Driven<Scripted>) -> Registration {
    let registration = driven.register(instance(&service("users")));
    registration.live().await.unwrap();
    registration
}

fn is(registration: &Registration, name: &str) -> bool {
    registration.state().borrow().as_str() == name
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_hangs_is_cut_at_the_request_time_out_and_made_again_for_ever() {
    let driven = driven(Answer::Never);
    let registration = driven.register(instance(&service("users")));
    eventually("a cause", || {
        matches!(&*registration.state().borrow(), RegistrationState::Pending { cause: Some(_) })
    })
    .await;
    let cause = match &*registration.state().borrow() {
        RegistrationState::Pending { cause: Some(cause) } => cause.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(cause, "claiming `users-1`: no answer within 3.0s");
    sleep(Duration::from_secs(3_600)).await;
    let claims = driven.backend().counts.claims.load(SeqCst);
    assert!(claims > 300, "{claims} claims in an hour");
    driven.backend().answers(Answer::Well);
    registration.live().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn leaving_cuts_a_claim_that_hangs_and_releases_what_is_noted() {
    let driven = driven(Answer::Never);
    let registration = driven.register(instance(&service("users")));
    eventually("a claim", || driven.backend().counts.claims.load(SeqCst) == 1).await;
    let before = Instant::now();
    assert!(registration.deregister().await.is_err());
    assert!(before.elapsed() <= Duration::from_millis(2_010), "{:?}", before.elapsed());
    assert_eq!(driven.backend().counts.releases.load(SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn leaving_cuts_an_update_that_hangs() {
    let driven = driven(Answer::Well);
    let registration = live(&driven).await;
    driven.backend().answers(Answer::Never);
    registration.update(|instance| instance.weight = 1);
    eventually("an update", || driven.backend().counts.updates.load(SeqCst) == 1).await;
    let before = Instant::now();
    assert!(registration.deregister().await.is_err());
    assert!(before.elapsed() <= Duration::from_millis(2_010), "{:?}", before.elapsed());
    assert_eq!(driven.backend().counts.updates.load(SeqCst), 2, "the mark was tried");
}

#[tokio::test(start_paused = true)]
async fn many_updates_write_the_last_content() {
    let driven = driven(Answer::Well);
    let registration = live(&driven).await;
    driven.backend().answers(Answer::After(Duration::from_millis(100)));
    for weight in 1..1_000 {
        registration.update(|instance| instance.weight = weight);
        tokio::task::yield_now().await;
    }
    let weight = || driven.backend().written.lock().unwrap().as_ref().map(|instance| instance.weight);
    eventually("the last content", || weight() == Some(999)).await;
    assert!(driven.backend().counts.updates.load(SeqCst) <= 3);
    assert!(is(&registration, "live"));
}

#[tokio::test(start_paused = true)]
async fn a_lost_claim_is_made_again_at_once_and_one_lost_with_the_registry_within_half_the_ttl() {
    let driven = driven(Answer::Well);
    let registration = live(&driven).await;
    for with_registry in [false, true] {
        sleep(Duration::from_secs(20)).await;
        if with_registry {
            driven.backend().crash.notify_one();
            eventually("the drive's end", || driven.stats().drives_lost.get() == 1).await;
        }
        let claims = driven.stats().claims.get();
        let lost = Instant::now();
        driven.backend().lose.notify_one();
        eventually("the loss", || is(&registration, "lost")).await;
        eventually("the claim", || driven.stats().claims.get() > claims).await;
        eventually("its success", || is(&registration, "live")).await;
        let limit = if with_registry { 7_600 } else { 600 };
        assert!(lost.elapsed() <= Duration::from_millis(limit), "{:?}", lost.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_fails_the_start_at_once_and_is_tried_again_once_a_minute() {
    let driven = driven(Answer::Error(ErrorKind::Denied));
    let registration = driven.register(instance(&service("users")));
    assert_eq!(registration.live().await.unwrap_err().kind(), ErrorKind::Denied);
    sleep(Duration::from_secs(600)).await;
    assert!(driven.stats().claims.get() <= 11);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_claims_again_before_it_calls_itself_live() {
    let driven = driven(Answer::Well);
    let registration = live(&driven).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(driven.stats().claims.get(), 1, "nothing stood still yet");
    driven.backend().answers(Answer::After(Duration::from_millis(50)));
    advance(Duration::from_secs(45)).await;
    eventually("the standstill is noticed", || is(&registration, "lost")).await;
    eventually("and mended", || is(&registration, "live")).await;
    assert_eq!(driven.stats().claims.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_announcer_that_notes_nothing_is_a_fault_not_a_success() {
    let driven = driven(Answer::Well);
    driven.backend().drops_claims.store(true, SeqCst);
    let registration = driven.register(instance(&service("users")));
    assert_eq!(registration.live().await.unwrap_err().kind(), ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_panics_is_an_alarm_and_asked_again() {
    let driven = driven(Answer::Panic);
    let registration = driven.register(instance(&service("users")));
    let watch = driven.watch(&service("users").into());
    let cause = registration.live().await.unwrap_err();
    assert_eq!(cause.kind(), ErrorKind::Protocol);
    assert_eq!(cause.to_string(), "claiming `users-1`: the backend panicked");
    eventually("the view's cause", || watch.latest().staleness().cause().is_some()).await;
    driven.backend().answers(Answer::Well);
    eventually("both are well again", || is(&registration, "live") && watch.latest().staleness().is_fresh())
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_registration_dropped_leaves_marked_on_its_own_task() {
    let driven = driven(Answer::Well);
    drop(live(&driven).await);
    eventually("the release", || driven.backend().counts.releases.load(SeqCst) == 1).await;
    assert_eq!(driven.backend().counts.updates.load(SeqCst), 1, "the mark");
    assert!(driven.backend().written.lock().unwrap().is_none());
    eventually("its end", || driven.stats().registrations.get() == 0).await;
    assert_eq!(driven.stats().live.get(), 0);
    assert_eq!(Status::default(), Status::Up);
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_lost_its_registry_does_not_return_in_one_moment() {
    let driven = driven(Answer::Well);
    let mut registrations = Vec::new();
    for n in 0..300 {
        let registration = driven.register(instance(&service(&format!("s{n}"))));
        registration.live().await.unwrap();
        registrations.push(registration);
    }
    sleep(Duration::from_secs(20)).await;
    driven.backend().claimed_at.lock().unwrap().clear();
    driven.backend().crash.notify_one();
    eventually("the drive's end", || driven.stats().drives_lost.get() == 1).await;
    let lost = Instant::now();
    driven.backend().lose.notify_waiters();
    eventually("all are back", || driven.stats().claims.get() == 600 && driven.stats().live.get() == 300)
        .await;
    assert!(lost.elapsed() <= Duration::from_secs(17), "{:?}", lost.elapsed());
    let claimed = driven.backend().claimed_at.lock().unwrap().clone();
    for second in 0..17 {
        let from = lost + Duration::from_secs(second);
        let claims = claimed.iter().filter(|at| **at >= from && **at < from + Duration::from_secs(1)).count();
        // Steady keep-alives of 300, one per third of 15 s, are 60 per second.
        assert!(claims <= 180, "{claims} claims in one second");
    }
}
