//! The registrar without a runtime: one event, one answer.

use meshwork_core::ServiceName;

use super::*;

fn instance(weight: u16) -> Arc<Instance> {
    let mut instance =
        Instance::with_id(ServiceName::new("users").unwrap(), InstanceId::new("users-1").unwrap());
    instance.weight = weight;
    instance.start_time = None;
    Arc::new(instance)
}

fn wish(weight: u16) -> Wish {
    Wish { instance: instance(weight), departure: None }
}

fn error(kind: ErrorKind) -> Arc<Error> {
    Arc::new(Error::new(kind, "working"))
}

/// A registrar and its clock.
struct Bench {
    registrar: Registrar,
    now: Instant,
    actions: Vec<Action>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let registrar = Registrar::new(wish(1), DriverOptions::default(), Dice::new(Some(seed)), now);
        Self { registrar, now, actions: Vec::new() }
    }

    fn live(seed: u64) -> Self {
        let mut bench = Self::new(seed);
        bench.ok();
        assert_eq!(bench.work(), Work::Hold);
        bench
    }

    fn step(&mut self, event: Event) {
        self.actions.clear();
        self.registrar.step(event, self.now, &mut self.actions);
    }

    fn ok(&mut self) {
        self.step(Event::Done { result: Ok(()), noted: true });
    }

    fn fails(&mut self, kind: ErrorKind) {
        self.step(Event::Done { result: Err(error(kind)), noted: true });
    }

    fn loses(&mut self, registry_away: bool) {
        self.step(Event::Lost { error: error(ErrorKind::Unavailable), registry_away });
    }

    fn departs(&mut self) {
        let instance = Arc::clone(self.registrar.wished());
        self.step(Event::Wished(Wish { instance, departure: Some(Departure::Marked) }));
    }

    fn work(&self) -> Work {
        self.registrar.work(self.now)
    }

    /// How long it rests; then it is over.
    fn rest(&mut self) -> Duration {
        let Work::Rest(until) = self.work() else { panic!("{:?} is no rest", self.work()) };
        let rest = until.saturating_duration_since(self.now);
        self.now = until;
        self.step(Event::Due);
        rest
    }

    fn state(&self) -> Option<&RegistrationState> {
        self.actions.iter().rev().find_map(|action| match action {
            Action::Publish(state) => Some(state),
            _ => None,
        })
    }
}

#[test]
fn a_loss_of_our_own_is_claimed_again_within_two_seconds_however_often() {
    for seed in 0..200 {
        let mut bench = Bench::live(seed);
        for _ in 0..20 {
            bench.loses(false);
            assert!(bench.rest() <= Duration::from_millis(1_500));
            assert_eq!(bench.work(), Work::Claim(instance(1)));
            bench.ok();
            assert!(matches!(bench.state(), Some(RegistrationState::Live)));
        }
    }
}

#[test]
fn a_fleet_that_lost_the_registry_returns_spread_over_half_the_time_to_live() {
    let half = DriverOptions::default().healing.ttl / 2;
    let mut rests: Vec<_> = (0..1_000)
        .map(|seed| {
            let mut bench = Bench::live(seed);
            bench.loses(true);
            bench.rest();
            bench.fails(ErrorKind::Unavailable);
            bench.rest()
        })
        .collect();
    rests.sort();
    assert!(rests[999] <= half && rests[999] > half * 9 / 10);
    // Steady keep-alives of 1 000 instances, one per third of 15 s, are 200 per second.
    for second in 0..8 {
        let second = Duration::from_secs(second);
        let returning =
            rests.iter().filter(|r| **r >= second && **r < second + Duration::from_secs(1)).count();
        assert!(returning <= 3 * 200, "{returning} return within one second");
    }
}

#[test]
fn what_waiting_cannot_mend_is_tried_once_a_minute_unless_the_wish_changes() {
    let mut bench = Bench::new(1);
    bench.fails(ErrorKind::Denied);
    let alarm = Action::Tell(Told::Outage { line: Line::Lost, cause: None, retry_in: None, was_live: false });
    assert!(bench.actions.iter().any(|a| std::mem::discriminant(a) == std::mem::discriminant(&alarm)));
    assert!(bench.rest() >= Duration::from_secs(60));
    bench.fails(ErrorKind::Invalid);
    bench.now += Duration::from_millis(100);
    bench.step(Event::Wished(wish(2)));
    assert!(bench.rest() <= Duration::from_secs(1));
    assert_eq!(bench.work(), Work::Claim(instance(2)));
}

#[test]
fn an_update_that_cannot_be_written_leaves_the_good_record_and_a_better_one_follows() {
    let mut bench = Bench::live(1);
    bench.step(Event::Wished(wish(2)));
    assert_eq!(bench.work(), Work::Update(instance(2)));
    bench.fails(ErrorKind::Invalid);
    assert_eq!(bench.work(), Work::Hold, "the record that stands is kept");
    bench.loses(false);
    bench.rest();
    assert_eq!(bench.work(), Work::Claim(instance(1)), "and claimed again");
    bench.ok();
    assert_eq!(bench.work(), Work::Hold);
    bench.step(Event::Wished(wish(3)));
    assert_eq!(bench.work(), Work::Update(instance(3)));
}

#[test]
fn a_conflict_releases_all_then_takes_a_new_id_once_at_once_then_slowly() {
    let mut bench = Bench::live(1);
    bench.step(Event::Lost { error: error(ErrorKind::Conflict), registry_away: false });
    assert!(matches!(bench.work(), Work::Release(_)));
    bench.step(Event::Done { result: Ok(()), noted: false });
    assert!(bench.actions.iter().any(|action| matches!(action, Action::Rename(_))));
    assert_ne!(bench.registrar.wished().id, instance(1).id);
    assert_eq!(bench.rest(), Duration::ZERO);
    bench.fails(ErrorKind::Conflict);
    bench.step(Event::Done { result: Ok(()), noted: false });
    assert!(bench.rest() >= Duration::from_secs(60), "again and again is no accident");
}

#[test]
fn leaving_with_nothing_noted_is_done_at_once() {
    let mut bench = Bench::new(1);
    bench.step(Event::Done { result: Err(error(ErrorKind::Unavailable)), noted: false });
    bench.departs();
    assert!(matches!(bench.state(), Some(RegistrationState::Gone { outcome: Ok(()) })));
    assert_eq!(bench.work(), Work::End);
}

#[test]
fn leaving_marks_then_releases_within_two_seconds_even_if_marking_fails() {
    let mut bench = Bench::live(1);
    bench.departs();
    let began = bench.now;
    while let Work::Mark(last, limit) = bench.work() {
        assert_eq!(last.status, Status::Leaving);
        bench.now += limit.min(Duration::from_millis(300));
        bench.fails(ErrorKind::Unavailable);
        if let Work::Rest(_) = bench.work() {
            bench.rest();
        }
    }
    let Work::Release(limit) = bench.work() else { panic!("{:?}", bench.work()) };
    assert!(limit >= Duration::from_millis(900));
    assert!(bench.now + limit <= began + Duration::from_secs(2));
    bench.step(Event::Done { result: Err(error(ErrorKind::Unavailable)), noted: false });
    assert!(matches!(bench.state(), Some(RegistrationState::Gone { outcome: Err(_) })));
}

#[test]
fn a_silent_departure_does_not_mark() {
    let mut bench = Bench::live(1);
    bench.step(Event::Wished(Wish { instance: instance(1), departure: Some(Departure::Silent) }));
    assert!(matches!(bench.work(), Work::Release(_)));
}

#[test]
fn a_standstill_is_claimed_anew_before_it_is_called_live() {
    let mut bench = Bench::live(1);
    bench.step(Event::Paused(Duration::from_secs(40)));
    assert!(matches!(bench.state(), Some(RegistrationState::Lost { .. })));
    assert_eq!(bench.work(), Work::Claim(instance(1)));
    bench.ok();
    assert!(matches!(bench.state(), Some(RegistrationState::Live)));
}
