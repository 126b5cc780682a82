//! The memory registry through its drivers, fault by fault, in paused time.

use meshwork_core::{
    Departure, Discovery, Query, RefusalKind, Registration, RegistrationState, Registry, Snapshot, Status,
    Watch,
};
use tokio::time::{Instant, timeout};

use super::*;

fn users() -> ServiceName {
    ServiceName::new("users").unwrap()
}

fn instance(port: u16) -> Instance {
    let mut instance = Instance::new(users());
    instance.endpoints.push(format!("http://127.0.0.1:{port}").parse().unwrap());
    instance
}

/// Waits for a view, at most 10 s of paused time.
async fn until(watch: &mut Watch, what: &str, is_met: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let met = async {
        loop {
            let view = watch.changed().await;
            if is_met(&view) {
                return view;
            }
        }
    };
    match timeout(Duration::from_secs(10), met).await {
        Ok(view) => view,
        Err(_) => panic!("{what} did not come; the view is {:?}", watch.latest()),
    }
}

async fn until_state(registration: &Registration, name: &str) {
    let mut state = registration.state();
    let met = timeout(Duration::from_secs(10), state.wait_for(|state| state.as_str() == name));
    assert!(met.await.is_ok(), "{name} did not come; the state is {:?}", registration.state().borrow());
}

struct Bench {
    memory: Memory,
    driven: Driven<Memory>,
    registration: Registration,
    watch: Watch,
}

impl Bench {
    /// One instance announced and found.
    async fn new() -> Self {
        let memory = Memory::with_options(Memory::new().options.with_seed(7));
        let driven = memory.driven();
        let registration = driven.register(instance(8080));
        registration.live().await.unwrap();
        let mut watch = driven.watch(&users().into());
        until(&mut watch, "the instance", |view| view.value().len() == 1).await;
        Self { memory, driven, registration, watch }
    }

    async fn until(&mut self, what: &str, is_met: impl Fn(&Snapshot) -> bool) -> Snapshot {
        until(&mut self.watch, what, is_met).await
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_is_seen_and_the_record_is_never_absent() {
    let mut bench = Bench::new().await;
    for weight in 1..20 {
        bench.registration.update(|instance| instance.weight = weight);
        let view = bench.until("the update", |view| view.value()[0].weight == weight).await;
        assert_eq!(view.value().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn leaving_is_confirmed_and_nothing_comes_back() {
    let mut bench = Bench::new().await;
    bench.registration.deregister().await.unwrap();
    assert!(bench.memory.instances(&users()).is_empty());
    until(&mut bench.watch, "the end", |view| view.value().is_empty()).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(bench.memory.instances(&users()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_registry_shows_the_mark_before_the_end() {
    let mut bench = Bench::new().await;
    bench.memory.lag(Duration::from_millis(50));
    let leaving = tokio::spawn(bench.registration.deregister());
    until(&mut bench.watch, "the mark", |view| {
        view.value().iter().any(|instance| instance.status == Status::Leaving)
    })
    .await;
    until(&mut bench.watch, "the end", |view| view.value().is_empty()).await;
    leaving.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_failing_registry_makes_views_stale_and_registrations_lost_until_it_is_back() {
    let mut bench = Bench::new().await;
    bench.memory.fail(true);
    let view = bench.until("staleness", |view| !view.staleness().is_fresh()).await;
    assert_eq!(view.value().len(), 1, "the last good set stands");
    until_state(&bench.registration, "lost").await;
    bench.memory.fail(false);
    let back = Instant::now();
    bench.until("freshness", |view| view.staleness().is_fresh()).await;
    until_state(&bench.registration, "live").await;
    assert!(back.elapsed() < Duration::from_millis(100), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_wiped_or_edited_registry_gets_its_records_back() {
    let mut bench = Bench::new().await;
    let id = bench.registration.id();
    for fault in ["clear", "forget", "edit"] {
        match fault {
            "clear" => bench.memory.clear(),
            "forget" => bench.memory.forget(&users(), &id),
            _ => {
                let mut edited = (*bench.registration.instance()).clone();
                edited.weight = 1;
                bench.memory.put(edited);
            }
        }
        let wished = bench.registration.instance();
        bench.until(fault, |view| view.value().len() == 1 && *view.value()[0] == *wished).await;
        until_state(&bench.registration, "live").await;
        assert_eq!(bench.memory.instances(&users()), [wished]);
    }
    assert_eq!(bench.driven.stats().claims_lost.get(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_killed_process_does_not_come_back() {
    let mut bench = Bench::new().await;
    bench.memory.kill(&users(), &bench.registration.id());
    bench.until("its removal", |view| view.value().is_empty()).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(bench.watch.latest().value().is_empty());
    until_state(&bench.registration, "lost").await;
}

#[tokio::test(start_paused = true)]
async fn a_partition_is_noticed_and_survived() {
    let mut bench = Bench::new().await;
    bench.memory.partition(true);
    bench.until("staleness", |view| !view.staleness().is_fresh()).await;
    until_state(&bench.registration, "lost").await;
    bench.memory.partition(false);
    bench.until("freshness", |view| view.staleness().is_fresh()).await;
    until_state(&bench.registration, "live").await;
}

#[tokio::test(start_paused = true)]
async fn lag_delays_what_is_seen_by_just_that() {
    let mut bench = Bench::new().await;
    let lag = Duration::from_millis(300);
    bench.memory.lag(lag);
    let second = bench.driven.register(instance(8081));
    let before = Instant::now();
    bench.until("the second", |view| view.value().len() == 2).await;
    assert!(before.elapsed() >= lag && before.elapsed() < lag + Duration::from_millis(50));
    until_state(&second, "live").await;
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_is_told_and_taken_back() {
    let mut bench = Bench::new().await;
    bench.memory.answer_empty(true);
    bench.until("nothing", |view| view.value().is_empty()).await;
    bench.memory.answer_empty(false);
    bench.until("the instance", |view| view.value().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_spoiled_record_keeps_its_last_good_one_is_counted_and_its_owner_mends_it() {
    let mut bench = Bench::new().await;
    let mut foreign = instance(9090);
    foreign.id = InstanceId::new("by-hand").unwrap();
    bench.memory.put(foreign);
    bench.until("the second", |view| view.value().len() == 2).await;
    bench.memory.spoil(&users(), &InstanceId::new("by-hand").unwrap());
    bench.memory.fail(true);
    bench.until("staleness", |view| !view.staleness().is_fresh()).await;
    bench.memory.fail(false);
    let view = bench.until("freshness", |view| view.staleness().is_fresh()).await;
    assert_eq!(view.value().len(), 2);
    let stats = bench.driven.stats();
    assert_eq!(stats.refused(RefusalKind::Syntax), 1);
    assert_eq!(&*stats.last_refused()[0].record, "memory:by-hand");
}

#[tokio::test(start_paused = true)]
async fn an_id_of_another_process_is_given_up_for_a_new_one() {
    let mut bench = Bench::new().await;
    let id = bench.registration.id();
    let mut clone = (*bench.registration.instance()).clone();
    clone.endpoints = vec!["http://127.0.0.2:1".parse().unwrap()];
    bench.memory.put(clone);
    let view = bench.until("both", |view| view.value().len() == 2).await;
    until_state(&bench.registration, "live").await;
    assert_ne!(bench.registration.id(), id);
    assert!(view.value().iter().any(|instance| instance.id == bench.registration.id()));
    assert_eq!(bench.driven.stats().conflicts.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_under_our_id_is_no_other_process_and_is_written_over() {
    let mut bench = Bench::new().await;
    let (mut next, id) = (instance(8081), InstanceId::new("second").unwrap());
    next.id = id.clone();
    bench.memory.spoil(&users(), &id);
    let registration = bench.driven.register(next);
    bench.until("the second", |view| view.value().len() == 2).await;
    until_state(&registration, "live").await;
    assert_eq!((registration.id(), bench.driven.stats().conflicts.get()), (id, 0));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_registration_leaves_and_departing_silently_does_not_mark() {
    let mut bench = Bench::new().await;
    let second = bench.driven.register(instance(8081));
    bench.until("the second", |view| view.value().len() == 2).await;
    second.depart(Departure::Silent).await.unwrap();
    drop(std::mem::replace(&mut bench.registration, bench.driven.register(instance(8082))));
    bench
        .until("the third alone", |view| {
            view.value().len() == 1 && view.value()[0].endpoints[0].port() == 8082
        })
        .await;
    assert_eq!(bench.memory.instances(&users()).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_environment_sees_its_own_and_those_that_name_none() {
    let memory = Memory::new();
    for env in ["", "prod", "test"] {
        let mut instance = instance(8080);
        instance.env = env.into();
        memory.put(instance);
    }
    let mut watch = memory.driven().watch(&Query::new(users()).in_env("prod"));
    until(&mut watch, "two of three", |view| view.value().len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn leaving_while_the_registry_is_away_ends_in_time_with_an_error() {
    let bench = Bench::new().await;
    bench.memory.partition(true);
    let before = Instant::now();
    let state = bench.registration.state();
    assert!(bench.registration.deregister().await.is_err());
    assert!(before.elapsed() <= Duration::from_millis(2_050), "{:?}", before.elapsed());
    assert!(matches!(*state.borrow(), RegistrationState::Gone { outcome: Err(_) }));
}
