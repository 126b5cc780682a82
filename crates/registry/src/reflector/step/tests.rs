//! The reflector without a runtime: one event, one answer.

use meshwork_core::{Instance, ServiceName, Status};

use super::*;

fn instance(n: usize) -> Arc<Instance> {
    let id = InstanceId::new(format!("users-{n}")).unwrap();
    let mut instance = Instance::with_id(ServiceName::new("users").unwrap(), id);
    instance.start_time = None;
    Arc::new(instance)
}

/// A reflector and its clock.
struct Bench {
    reflector: Reflector,
    now: Instant,
    epoch: u64,
    actions: Vec<Action>,
}

impl Bench {
    /// Subscribed, nothing read yet.
    fn new(options: DriverOptions) -> Self {
        let now = Instant::now();
        let query = Query::new(ServiceName::new("users").unwrap());
        let reflector = Reflector::new(query, options, Dice::new(Some(1)), now);
        let mut bench = Self { reflector, now, epoch: 0, actions: Vec::new() };
        bench.wait();
        bench
    }

    fn following(set: &[usize]) -> Self {
        let mut bench = Self::new(DriverOptions::default());
        bench.set(set);
        bench
    }

    fn step(&mut self, event: Event) {
        self.actions.clear();
        self.reflector.step(event, self.now, &mut self.actions);
        for action in &self.actions {
            if let Action::Subscribe { epoch } = action {
                self.epoch = *epoch;
            }
        }
    }

    fn change(&mut self, change: Change) {
        self.step(Event::Changed { epoch: self.epoch, change });
    }

    fn set(&mut self, set: &[usize]) {
        self.change(Change::Set(set.iter().map(|n| instance(*n)).collect()));
    }

    fn put(&mut self, n: usize) {
        self.change(Change::Delta { put: vec![instance(n)], removed: Vec::new() });
    }

    fn fail(&mut self, kind: ErrorKind) {
        self.step(Event::Failed { epoch: self.epoch, error: Arc::new(Error::new(kind, "watching")) });
    }

    /// Goes on to the deadline; says how long that was.
    fn wait(&mut self) -> Duration {
        let deadline = self.reflector.deadline().expect("there is a deadline");
        let waited = deadline.saturating_duration_since(self.now);
        self.now = self.now.max(deadline);
        self.step(Event::Due);
        waited
    }

    fn view(&self) -> Option<&Publication> {
        self.actions.iter().find_map(|action| match action {
            Action::Publish(publication) => Some(publication),
            _ => None,
        })
    }

    fn len(&self) -> Option<usize> {
        self.view().and_then(|view| view.value.as_ref()).map(|value| value.len())
    }

    fn lines(&self) -> Vec<Line> {
        let lines = self.actions.iter().filter_map(|action| match action {
            Action::Tell(told) => Some(told.line),
            _ => None,
        });
        lines.collect()
    }
}

#[test]
fn the_first_change_is_published_at_once_then_at_most_every_20_ms() {
    let mut bench = Bench::following(&[1]);
    assert_eq!(bench.len(), Some(1));
    bench.now += Duration::from_secs(1);
    bench.put(2);
    assert_eq!(bench.len(), Some(2), "after a calm at once");
    for n in 3..50 {
        bench.now += Duration::from_micros(100);
        bench.put(n);
        assert!(bench.view().is_none());
    }
    assert!(bench.wait() < Duration::from_millis(20));
    assert_eq!(bench.len(), Some(49), "then all together");
}

#[test]
fn a_set_that_says_nothing_new_wakes_nobody() {
    let mut bench = Bench::following(&[1, 2]);
    bench.now += Duration::from_secs(300);
    bench.set(&[2, 1]);
    assert!(bench.view().is_none());
    assert!(bench.reflector.deadline().is_none());
}

#[test]
fn an_empty_set_is_an_answer() {
    let bench = Bench::following(&[]);
    assert!(bench.view().unwrap().staleness.is_fresh());
    assert_eq!(bench.len(), Some(0));
}

#[test]
fn a_lost_source_leaves_the_last_set_stale_since_the_loss() {
    let mut bench = Bench::following(&[1, 2]);
    bench.now += Duration::from_secs(1);
    let lost = bench.now;
    bench.fail(ErrorKind::Unavailable);
    assert_eq!(bench.lines(), [Line::Lost]);
    assert!(bench.view().unwrap().value.is_none(), "the value stays as it was");
    for _ in 0..5 {
        bench.wait();
        bench.fail(ErrorKind::Unavailable);
        assert!(bench.view().is_none(), "the same error again is no news");
    }
    bench.wait();
    bench.now += Duration::from_secs(1);
    bench.fail(ErrorKind::Denied);
    match &bench.view().unwrap().staleness {
        Staleness::Stale { since, cause, .. } => {
            assert_eq!((*since, cause.kind()), (lost, ErrorKind::Denied));
        }
        other => panic!("{other:?}"),
    }
    assert!(bench.wait() >= Duration::from_secs(60), "what waiting cannot mend is tried slowly");
    bench.set(&[1]);
    assert!(bench.view().unwrap().staleness.is_fresh());
    assert!(matches!(bench.lines()[..], [Line::Back { .. }]));
}

#[test]
fn a_subscription_is_tried_again_with_growing_windows() {
    let mut bench = Bench::new(DriverOptions::default());
    let mut longest = Duration::ZERO;
    for _ in 0..200 {
        bench.fail(ErrorKind::Unavailable);
        let waited = bench.wait();
        longest = longest.max(waited);
        if bench.reflector.deadline().is_some() {
            bench.wait();
        }
    }
    assert!(longest <= Duration::from_secs(5) && longest > Duration::from_secs(4), "{longest:?}");
}

#[test]
fn a_change_before_the_first_set_is_a_protocol_error() {
    let mut bench = Bench::new(DriverOptions::default());
    bench.put(1);
    assert!(bench.view().unwrap().staleness.cause().unwrap().kind() == ErrorKind::Protocol);
}

#[test]
fn a_bad_update_counts_once_and_keeps_the_good_record_on_watch_and_re_list() {
    let mut bench = Bench::following(&[1, 2]);
    let bad = || {
        let reason = Refusal::new(RefusalKind::Field, "weight is a text");
        Change::Refused { id: Some(instance(1).id.clone()), record: "/users-1".into(), reason }
    };
    bench.change(bad());
    assert!(matches!(bench.actions[..], [Action::Refuse(_)]));
    bench.change(Change::Delta { put: Vec::new(), removed: Vec::new() });
    bench.change(bad());
    assert!(bench.actions.is_empty(), "as it was, it counts once");
    bench.now += Duration::from_secs(1);
    bench.set(&[2]);
    assert!(bench.view().is_none(), "refused is not absent");
    bench.put(1);
    bench.change(bad());
    assert!(matches!(bench.actions[..], [Action::Refuse(_)]), "bad again after it was good");
}

#[test]
fn what_is_beyond_the_limits_is_refused_and_counted() {
    let mut bench = Bench::new(DriverOptions { max_records: 3, ..DriverOptions::default() });
    bench.set(&[1, 2, 3, 4, 5]);
    assert_eq!(bench.len(), Some(3));
    let Some(Action::Refuse(record)) = bench.actions.first() else { panic!("{:?}", bench.actions) };
    assert_eq!(record.reason.kind(), RefusalKind::TooLarge);
    assert!(record.reason.to_string().starts_with("2 instances"), "{}", record.reason);
}

#[test]
fn an_instance_that_says_it_drains_is_gone_for_good_but_a_foreign_address_is_not() {
    let mut bench = Bench::following(&[1, 2]);
    bench.now += Duration::from_secs(1);
    bench.step(Event::Saw(instance(1).id.clone(), Seen::Draining));
    assert_eq!(bench.len(), Some(1));
    bench.set(&[1, 2]);
    assert!(bench.view().is_none(), "its record may stand a while longer");
    let mut foreign = (*instance(3)).clone();
    foreign.origin = meshwork_core::Origin::Foreign;
    bench.now += Duration::from_secs(1);
    bench.change(Change::Delta { put: vec![Arc::new(foreign)], removed: Vec::new() });
    bench.now += Duration::from_secs(1);
    bench.step(Event::Saw(instance(3).id.clone(), Seen::Draining));
    assert!(bench.view().is_none());
    assert_eq!(bench.reflector.removals().draining, 2);
}

#[test]
fn a_record_that_says_leaving_is_shown_as_such_until_it_goes() {
    let mut bench = Bench::following(&[1, 2]);
    bench.now += Duration::from_secs(1);
    let mut leaving = (*instance(1)).clone();
    leaving.status = Status::Leaving;
    bench.change(Change::Delta { put: vec![Arc::new(leaving)], removed: Vec::new() });
    let shown = &bench.view().unwrap().value.as_ref().unwrap()[0];
    assert_eq!(shown.status, Status::Leaving);
}
