//! One view of two sides.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use meshwork_core::{
    Backend, Discovery, Error, ErrorChain, InstanceId, Parts, Publisher, Query, Seen, Staleness, Status,
    Watch,
};
use meshwork_registry::{
    Dual, Fixed, Memory,
    dual::{Difference, Read, Side},
};
use tokio::time::{Instant, sleep, timeout};

use crate::{Rig, eventually, foreign, ids, instance, service, shows, users, view};

#[tokio::test(start_paused = true)]
async fn the_first_view_is_the_whole_union_and_fresh() {
    let rig = Rig::new();
    rig.primary.put(instance("a", 81));
    rig.secondary.put(instance("b", 82));
    rig.secondary.lag(Duration::from_millis(300));
    let began = Instant::now();
    let view = rig.watch().ready().await;
    assert_eq!(ids(&view), ["a", "b"]);
    assert!(view.staleness().is_fresh());
    assert!(began.elapsed() < Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn a_client_starts_while_one_side_is_dead_and_sees_which() {
    for cut in [Memory::fail, Memory::partition] {
        for dead in Side::BOTH {
            let rig = Rig::new();
            let sides = [&rig.primary, &rig.secondary];
            sides.iter().for_each(|side| side.put(instance("a", 81)));
            cut(sides[dead as usize], true);
            let began = Instant::now();
            let view = rig.watch().ready().await;
            assert_eq!(ids(&view), ["a"]);
            assert!(began.elapsed() <= Duration::from_millis(600), "{:?}", began.elapsed());
            assert!(matches!(view.staleness(), Staleness::Stale { .. }), "{view:?}");
            let name = ["reading the primary side `one`", "reading the secondary side `two`"][dead as usize];
            assert_eq!(view.staleness().cause().unwrap().to_string(), name);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_dead_sides_are_unknown_and_both_are_named() {
    let rig = Rig::new();
    rig.primary.fail(true);
    rig.secondary.fail(true);
    let watch = rig.watch();
    let both = |view: &meshwork_core::Snapshot| {
        let text = view.staleness().cause().map(|cause| ErrorChain(&**cause).to_string());
        text.is_some_and(|text| text.contains("`one`") && text.contains("`two`"))
    };
    assert!(view(&watch, "of both causes", both).await.known().is_none());
    rig.secondary.put(instance("a", 81));
    rig.secondary.fail(false);
    shows(&watch, &["a"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_side_that_dies_removes_nobody_and_says_so_once() {
    let rig = Rig::new();
    for side in [&rig.primary, &rig.secondary] {
        side.put(instance("a", 81));
    }
    rig.primary.put(instance("b", 82));
    let watch = rig.watch();
    let before = shows(&watch, &["a", "b"]).await;
    rig.primary.fail(true);
    let stale = view(&watch, "that is stale", |view| !view.staleness().is_fresh()).await;
    assert_eq!(ids(&stale), ["a", "b"]);
    assert!(Arc::ptr_eq(before.value(), stale.value()));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(watch.latest().generation(), stale.generation(), "nothing new, nothing told");
    rig.primary.fail(false);
    view(&watch, "that is fresh", |view| view.staleness().is_fresh()).await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_side_does_not_keep_whom_the_other_saw_go() {
    let rig = Rig::new();
    for side in [&rig.primary, &rig.secondary] {
        side.put(instance("a", 81));
        side.put(instance("b", 82));
    }
    rig.primary.put(instance("c", 83));
    let watch = rig.watch();
    shows(&watch, &["a", "b", "c"]).await;
    rig.primary.fail(true);
    view(&watch, "that is stale", |view| !view.staleness().is_fresh()).await;
    rig.secondary.forget(&users(), &InstanceId::new("b").unwrap());
    // `c` was never shown by the living side: that it does not show it means nothing.
    shows(&watch, &["a", "c"]).await;
    rig.primary.fail(false);
    // Asked anew, the primary says that it is there.
    shows(&watch, &["a", "b", "c"]).await;
}

#[tokio::test(start_paused = true)]
async fn who_was_seen_leaving_never_comes_back_from_the_side_that_lags() {
    let rig = Rig::new();
    for side in [&rig.primary, &rig.secondary] {
        side.put(instance("a", 81));
    }
    let watch = rig.watch();
    shows(&watch, &["a"]).await;
    rig.secondary.fail(true);
    view(&watch, "that is stale", |view| !view.staleness().is_fresh()).await;
    let mut leaving = instance("a", 81);
    leaving.status = Status::Leaving;
    rig.primary.put(leaving);
    view(&watch, "of leaving", |view| view.value()[0].status == Status::Leaving).await;
    rig.primary.forget(&users(), &InstanceId::new("a").unwrap());
    shows(&watch, &[]).await;
    rig.secondary.fail(false);
    view(&watch, "that is fresh", |view| view.staleness().is_fresh()).await;
    assert!(ids(&watch.latest()).is_empty(), "its late record is on the secondary side still");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_record_becomes_the_native_one_at_its_address() {
    let rig = Rig::new();
    rig.primary.put(foreign("host-81", 81));
    rig.primary.put(foreign("host-82", 82));
    let watch = rig.watch();
    shows(&watch, &["host-81", "host-82"]).await;
    rig.secondary.put(instance("a", 81));
    shows(&watch, &["a", "host-82"]).await;
    rig.secondary.forget(&users(), &InstanceId::new("a").unwrap());
    shows(&watch, &["host-81", "host-82"]).await;
}

#[tokio::test(start_paused = true)]
async fn two_processes_at_one_address_are_named_by_the_one_that_answers() {
    let rig = Rig::new();
    let (mut older, mut newer) = (instance("older", 81), instance("newer", 81));
    older.start_time = Some(meshwork_core::Timestamp::from_millis(1));
    newer.start_time = Some(meshwork_core::Timestamp::from_millis(2));
    rig.primary.put(older);
    rig.secondary.put(newer);
    let watch = rig.watch();
    shows(&watch, &["newer"]).await;
    watch.saw(&InstanceId::new("older").unwrap(), Seen::Itself);
    shows(&watch, &["older"]).await;
    watch.saw(&InstanceId::new("newer").unwrap(), Seen::Itself);
    shows(&watch, &["newer"]).await;
    watch.saw(&InstanceId::new("newer").unwrap(), Seen::Another);
    shows(&watch, &["older"]).await;
}

#[tokio::test(start_paused = true)]
async fn what_clients_see_reaches_both_sides() {
    let rig = Rig::new();
    for side in [&rig.primary, &rig.secondary] {
        side.put(instance("a", 81));
        side.put(instance("b", 82));
    }
    let watch = rig.watch();
    shows(&watch, &["a", "b"]).await;
    let a = InstanceId::new("a").unwrap();
    watch.saw(&a, Seen::Draining);
    shows(&watch, &["b"]).await;
    let standing = || rig.dual.stats().standings()[0].instances;
    eventually("both guards know it", || standing() == [1, 1]).await;
}

#[tokio::test(start_paused = true)]
async fn a_flapping_side_shows_and_takes_nobody() {
    let rig = Rig::new();
    for side in [&rig.primary, &rig.secondary] {
        for n in 0..5 {
            side.put(instance(&format!("a{n}"), 80 + n));
        }
    }
    let mut watch = rig.watch();
    let first = view(&watch, "that is fresh", |view| view.staleness().is_fresh()).await;
    watch.changed().await;
    let flapping = tokio::spawn({
        let primary = rig.primary.clone();
        async move {
            for n in 0..60 {
                primary.fail(n % 2 == 0);
                sleep(Duration::from_millis(500)).await;
            }
        }
    });
    let mut views = 0;
    while !flapping.is_finished() {
        let Ok(view) = timeout(Duration::from_secs(1), watch.changed()).await else { continue };
        views += 1;
        assert!(view.value().iter().eq(first.value().iter()));
        assert!(view.value().iter().zip(first.value().iter()).all(|(a, b)| Arc::ptr_eq(a, b)));
    }
    assert!((30..=60).contains(&views), "one view for each change of certainty: {views}");
    let views = rig.dual.stats().views.get();
    assert!(views <= 63, "{views}");
}

#[tokio::test(start_paused = true)]
async fn the_fallback_adds_and_swaps_nothing() {
    let rig = Rig::with(|dual| dual.read(Read::PrimaryThenSecondary));
    for side in [&rig.primary, &rig.secondary] {
        side.put(instance("a", 81));
    }
    rig.primary.put(instance("p", 82));
    rig.secondary.put(instance("s", 83));
    let watch = rig.watch();
    let fresh = shows(&watch, &["a", "p"]).await;
    assert!(fresh.staleness().is_fresh());
    rig.secondary.fail(true);
    sleep(Duration::from_secs(5)).await;
    assert!(watch.latest().staleness().is_fresh(), "the primary's word is all that is read");
    rig.secondary.fail(false);
    rig.primary.fail(true);
    shows(&watch, &["a", "p", "s"]).await;
    // It flaps: nobody comes and goes with it.
    for n in 0..20 {
        rig.primary.fail(n % 2 == 0);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(ids(&watch.latest()), ["a", "p", "s"]);
    }
    rig.primary.fail(false);
    let began = Instant::now();
    shows(&watch, &["a", "p"]).await;
    assert!(began.elapsed() >= Duration::from_secs(28), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_disagreement_may_be_reported_never() {
    let rig = Rig::with(|dual| dual.report_after(Duration::MAX));
    rig.primary.put(instance("a", 81));
    let watch = rig.watch();
    shows(&watch, &["a"]).await;
    sleep(Duration::from_secs(3600)).await;
    rig.primary.put(instance("b", 82));
    assert!(shows(&watch, &["a", "b"]).await.staleness().is_fresh());
    assert_eq!(rig.dual.stats().disagreeing.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lasting_disagreement_is_reported_with_its_side() {
    let rig = Rig::with(|dual| dual.report_after(Duration::from_secs(5)));
    for side in [&rig.primary, &rig.secondary] {
        side.put(instance("a", 81));
    }
    let watch = rig.watch();
    shows(&watch, &["a"]).await;
    rig.primary.put(instance("b", 82));
    let mut heavier = instance("a", 81);
    heavier.weight = 7;
    rig.secondary.put(heavier);
    // Known by another id there: no disagreement.
    rig.primary.put(instance("c", 83));
    rig.secondary.put(foreign("host-83", 83));
    let stats = rig.dual.stats();
    sleep(Duration::from_secs(4)).await;
    assert_eq!(stats.disagreeing.get(), 0, "not for long yet");
    eventually("two disagreements", || stats.disagreeing.get() == 2).await;
    let standing = &stats.standings()[0];
    let found: Vec<_> = standing.disagreements.iter().map(|d| (d.id.as_str(), d.difference)).collect();
    assert_eq!(found, [("a", Difference::Record), ("b", Difference::Only(Side::Primary))]);
    rig.primary.forget(&users(), &InstanceId::new("b").unwrap());
    eventually("one disagreement", || stats.disagreeing.get() == 1).await;
    assert_eq!(stats.disagreements.get(), 2);
    drop((watch, rig.parts));
    eventually("none when nobody watches", || stats.disagreeing.get() == 0).await;
    assert!(stats.standings().is_empty());
}

/// A discovery that counts the watches it is asked for, and that ends with them.
struct Counting {
    asked: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Discovery for Counting {
    fn watch(&self, query: &Query) -> Watch {
        self.asked.fetch_add(1, SeqCst);
        self.open.fetch_add(1, SeqCst);
        let publisher: Publisher = Publisher::new(Arc::new([]));
        let mut one = instance("a", 81);
        one.service = query.service().clone();
        publisher.publish(Staleness::Fresh, Arc::new([Arc::new(one)]), Arc::new([]));
        publisher.watch().holding(Arc::new((Open(Arc::clone(&self.open)), publisher)))
    }
}

impl Backend for Counting {
    fn open(&self) -> Result<Parts, Error> {
        let (asked, open) = (Arc::clone(&self.asked), Arc::clone(&self.open));
        Ok(Parts::new("counting").with_discovery(Arc::new(Self { asked, open })))
    }
}

#[tokio::test(start_paused = true)]
async fn equal_queries_share_one_union_that_ends_with_its_last_watch() {
    let counting = || Counting { asked: Arc::default(), open: Arc::default() };
    let (one, two) = (counting(), counting());
    let (asked, open) = (Arc::clone(&one.asked), Arc::clone(&one.open));
    let other_open = Arc::clone(&two.open);
    let parts = Dual::new(one, two).open().unwrap();
    let discovery = parts.discovery.as_ref().unwrap();
    let watches: Vec<_> = (0..50).map(|_| discovery.watch(&Query::new(users()))).collect();
    for watch in &watches {
        assert_eq!(watch.ready().await.value().len(), 1);
    }
    assert_eq!(asked.load(SeqCst), 1);
    discovery.watch(&Query::new(service("orders"))).ready().await;
    assert_eq!(asked.load(SeqCst), 2);
    drop(watches);
    sleep(Duration::from_secs(20)).await;
    assert!(open.load(SeqCst) >= 1, "it lingers");
    discovery.watch(&Query::new(users())).ready().await;
    sleep(Duration::from_secs(40)).await;
    assert_eq!((open.load(SeqCst), other_open.load(SeqCst)), (0, 0));
    // Without anybody who could watch again, nothing lingers.
    let watch = discovery.watch(&Query::new(users()));
    watch.ready().await;
    drop(parts);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(open.load(SeqCst), 1, "a watched one stays");
    let began = Instant::now();
    drop(watch);
    eventually("nothing lingers", || open.load(SeqCst) + other_open.load(SeqCst) == 0).await;
    assert!(began.elapsed() < Duration::from_secs(1));
}

#[test]
fn the_end_of_a_runtime_leaves_no_dead_union_behind() {
    let run = || tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let list = || Fixed::new().service("users", ["http://127.0.0.1:81"]).unwrap();
    let parts = Dual::new(list(), Memory::new()).open().unwrap();
    let discovery = parts.discovery.unwrap();
    let query = Query::new(users());
    let left = run().block_on(async {
        let watch = discovery.watch(&query);
        assert_eq!(watch.ready().await.value().len(), 1);
        watch
    });
    let cause = left.latest().staleness().cause().unwrap().to_string();
    assert!(cause.contains("runtime"), "{cause}");
    run().block_on(async {
        let watch = discovery.watch(&query);
        view(&watch, "that is fresh", |view| view.staleness().is_fresh()).await;
    });
}

#[tokio::test(start_paused = true)]
async fn a_parameter_that_one_side_does_not_know_is_told_and_the_other_side_is_used() {
    let rig = Rig::new();
    rig.primary.put(instance("a", 81));
    let watch = rig.discovery().watch(&Query::new(users()).with("dc", "x"));
    let unknown = view(&watch, "of a cause", |view| view.staleness().cause().is_some()).await;
    assert!(unknown.known().is_none());
    let text = ErrorChain(&**unknown.staleness().cause().unwrap()).to_string();
    assert!(text.contains("`dc`"), "{text}");
}
