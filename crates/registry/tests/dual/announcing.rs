//! One registration on two sides.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use meshwork_core::{Backend, Departure, ErrorChain, ErrorKind, InstanceId, RegistrationState, Status};
use meshwork_registry::{
    Dual, Fixed, Memory,
    dual::{Side, Start, Write},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{Rig, eventually, instance, state, users, view};

#[tokio::test(start_paused = true)]
async fn an_instance_is_announced_on_both_sides_and_leaves_both() {
    let rig = Rig::new();
    let registration = rig.registry().register(instance("a", 81));
    registration.live().await.unwrap();
    rig.truth_is(&["a"], &["a"]).await;
    let stats = rig.dual.stats();
    eventually("both are counted", || Side::BOTH.iter().all(|side| stats.side(*side).live.get() == 1)).await;
    registration.deregister().await.unwrap();
    assert_eq!(rig.truth(), [Vec::<String>::new(), Vec::new()]);
    eventually("nothing is counted", || stats.primary.registrations.get() == 0).await;
    assert_eq!((stats.secondary.registrations.get(), stats.secondary.live.get()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_dead_side_at_the_start_keeps_nobody_from_being_live_with_any() {
    for cut in [Memory::fail, Memory::partition] {
        let rig = Rig::new();
        cut(&rig.primary, true);
        let registration = rig.registry().register(instance("a", 81));
        timeout(Duration::from_secs(1), registration.live()).await.unwrap().unwrap();
        rig.truth_is(&[], &["a"]).await;
        cut(&rig.primary, false);
        rig.truth_is(&["a"], &["a"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_side_at_the_start_is_waited_for_with_all_and_named() {
    let rig = Rig::with(|dual| dual.start(Start::All));
    rig.secondary.fail(true);
    let registration = rig.registry().register(instance("a", 81));
    assert!(timeout(Duration::from_secs(5), registration.live()).await.is_err());
    let state = registration.state().borrow().clone();
    let RegistrationState::Pending { cause: Some(cause) } = state else { panic!("{state:?}") };
    assert_eq!(cause.kind(), ErrorKind::Unavailable);
    let text = ErrorChain(&*cause).to_string();
    assert!(text.starts_with("announcing on the secondary side `two`: "), "{text}");
    rig.secondary.fail(false);
    timeout(Duration::from_secs(5), registration.live()).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_side_that_is_lost_heals_alone() {
    for (start, word) in [(Start::Any, "live"), (Start::All, "lost")] {
        let rig = Rig::with(|dual| dual.start(start));
        let registration = rig.registry().register(instance("a", 81));
        rig.truth_is(&["a"], &["a"]).await;
        registration.live().await.unwrap();
        eventually("both live", || rig.dual.stats().primary.live.get() == 1).await;
        rig.primary.fail(true);
        eventually("a loss", || rig.dual.stats().primary.lost.get() == 1).await;
        assert_eq!(state(&registration, word).await.as_str(), word);
        assert_eq!(rig.dual.stats().secondary.lost.get(), 0);
        rig.primary.clear();
        rig.primary.fail(false);
        rig.truth_is(&["a"], &["a"]).await;
        state(&registration, "live").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_reaches_both_sides_and_the_one_that_was_away() {
    let rig = Rig::new();
    let registration = rig.registry().register(instance("a", 81));
    rig.truth_is(&["a"], &["a"]).await;
    rig.primary.fail(true);
    registration.update(|instance| instance.weight = 7);
    eventually("the living side", || rig.secondary.instances(&users())[0].weight == 7).await;
    registration.update(|instance| instance.weight = 9);
    rig.primary.fail(false);
    eventually("both sides", || {
        [&rig.primary, &rig.secondary].iter().all(|side| side.instances(&users())[0].weight == 9)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_side_delays_the_leaving_of_the_other_by_nothing() {
    let rig = Rig::new();
    let registration = rig.registry().register(instance("a", 81));
    rig.truth_is(&["a"], &["a"]).await;
    rig.primary.partition(true);
    let began = Instant::now();
    let leaving = tokio::spawn(registration.deregister());
    eventually("the living side is left", || rig.truth()[1].is_empty()).await;
    assert!(began.elapsed() < Duration::from_millis(50), "{:?}", began.elapsed());
    let error = leaving.await.unwrap().unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(error.to_string().contains("leaving the primary side `one`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn leaving_says_so_on_both_sides_and_dropping_does_the_same() {
    for drops in [false, true] {
        let rig = Rig::new();
        let registration = rig.registry().register(instance("a", 81));
        rig.truth_is(&["a"], &["a"]).await;
        // The mark is seen because a reader of each side is as quick as the writer.
        let [primary, secondary] = [&rig.primary, &rig.secondary].map(|side| {
            let discovery = side.open().unwrap().discovery.unwrap();
            discovery.watch(&users().into())
        });
        for watch in [&primary, &secondary] {
            view(watch, "of a", |view| view.value().len() == 1).await;
        }
        let marks = |watch| async move {
            view(watch, "of leaving", |view| {
                view.value().first().is_none_or(|instance| instance.status == Status::Leaving)
            })
            .await
        };
        if drops {
            drop(registration);
        } else {
            registration.deregister().await.unwrap();
        }
        marks(&primary).await;
        marks(&secondary).await;
        rig.truth_is(&[], &[]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_given_up_on_one_side_is_given_up_on_both() {
    let rig = Rig::new();
    // A cloned machine: the same id, another process, on one side.
    rig.primary.put(instance("a", 90));
    // Slow enough for a reader to see each step.
    rig.secondary.lag(Duration::from_millis(50));
    let mut other = rig.secondary.open().unwrap().discovery.unwrap().watch(&users().into());
    let marked = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let marked = Arc::clone(&marked);
        async move {
            loop {
                let view = other.changed().await;
                let is_marked = view.value().iter().any(|instance| instance.status == Status::Leaving);
                marked.fetch_or(is_marked, SeqCst);
            }
        }
    });
    let registration = rig.registry().register(instance("a", 81));
    let renamed = || {
        let ids = |side: usize| rig.truth()[side].iter().cloned().collect::<BTreeSet<_>>();
        let id = registration.id().to_string();
        id != "a" && ids(1) == BTreeSet::from([id.clone()]) && ids(0) == BTreeSet::from(["a".into(), id])
    };
    eventually("one new id on both sides", renamed).await;
    state(&registration, "live").await;
    assert_eq!(rig.primary.instances(&users())[0].status, Status::Up, "the other process is not marked");
    assert!(!marked.load(SeqCst), "an id that is somebody else's is left without the mark");
    eventually("both live", || rig.dual.stats().secondary.live.get() == 1).await;
    registration.deregister().await.unwrap();
    assert_eq!(rig.truth(), [vec!["a".to_owned()], Vec::new()]);
    eventually("the mark of the end", || marked.load(SeqCst)).await;
    reader.abort();
}

#[tokio::test(start_paused = true)]
async fn a_departure_without_the_mark_marks_neither_side() {
    let rig = Rig::new();
    // Slow enough for a reader to see each step.
    for side in [&rig.primary, &rig.secondary] {
        side.lag(Duration::from_millis(50));
    }
    let watch = rig.watch();
    let registration = rig.registry().register(instance("a", 81));
    view(&watch, "of a", |view| view.value().len() == 1).await;
    let stats = rig.dual.stats();
    eventually("both live", || Side::BOTH.iter().all(|side| stats.side(*side).live.get() == 1)).await;
    registration.depart(Departure::Silent).await.unwrap();
    assert_eq!(rig.truth(), [Vec::<String>::new(), Vec::new()]);
    let again = rig.registry().register(instance("a", 81));
    again.live().await.unwrap();
    view(&watch, "of a again", |view| view.value().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_side_that_announces_nobody_is_passed_over() {
    let memory = Memory::new();
    let list = || Fixed::new().service("users", ["http://127.0.0.1:90"]).unwrap();
    let parts = Dual::new(list(), memory.clone()).open().unwrap();
    let registration = parts.registry.unwrap().register(instance("a", 81));
    registration.live().await.unwrap();
    assert_eq!(memory.instances(&users()).len(), 1);
    let error = Dual::new(list(), memory).write(Write::Primary).open().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        Dual::new(list(), list().service("x", ["http://h:1"]).unwrap()).open().unwrap().registry.is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_never_stood_leaves_at_once() {
    let rig = Rig::new();
    rig.primary.fail(true);
    rig.secondary.fail(true);
    let registration = rig.registry().register(instance("a", 81));
    state(&registration, "pending").await;
    sleep(Duration::from_millis(20)).await;
    let began = Instant::now();
    let _unconfirmed = registration.deregister().await;
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(InstanceId::new("a").is_ok_and(|_| rig.truth()[0].is_empty()));
}
