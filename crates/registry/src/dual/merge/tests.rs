use meshwork_core::{Error, InstanceId, Origin, ServiceName, Timestamp, View};

use super::*;
use crate::dual::Write;

const PRIMARY: Side = Side::Primary;
const SECONDARY: Side = Side::Secondary;

/// A merge that a test drives by hand.
struct Bench {
    merge: Merge,
    now: Instant,
    views: Vec<Publication>,
    reports: usize,
    ended: bool,
}

fn id(text: &str) -> InstanceId {
    InstanceId::new(text).unwrap()
}

/// `a`, `a:leaving`, `a@7` (at port 7); `~a` is foreign. The port is by the letter where none is given.
fn record(text: &str) -> Arc<Instance> {
    let (text, is_foreign) = text.strip_prefix('~').map_or((text, false), |rest| (rest, true));
    let (text, is_leaving) = text.strip_suffix(":leaving").map_or((text, false), |rest| (rest, true));
    let (name, port) = text.split_once('@').unwrap_or((text, ""));
    let port = port.parse().unwrap_or(u16::from(name.as_bytes()[0]));
    let mut instance = Instance::with_id(ServiceName::new("users").unwrap(), id(name));
    instance.endpoints.push(format!("http://10.0.0.1:{port}").parse().unwrap());
    instance.start_time = Some(Timestamp::from_millis(u64::from(name.as_bytes()[0])));
    if is_foreign {
        (instance.origin, instance.start_time) = (Origin::Foreign, None);
    }
    if is_leaving {
        instance.status = Status::Leaving;
    }
    Arc::new(instance)
}

impl Bench {
    fn new(read: Read) -> Self {
        let now = Instant::now();
        let query = Query::new(ServiceName::new("users").unwrap());
        let policy = Policy { read, ..Policy::default() };
        let merge = Merge::new(query, ["one".into(), "two".into()], [true; 2], policy, now);
        Self { merge, now, views: Vec::new(), reports: 0, ended: false }
    }

    /// Both sides fresh and equal.
    fn of(records: &[&str]) -> Self {
        let mut bench = Self::new(Read::Union);
        bench.fresh(PRIMARY, records);
        bench.fresh(SECONDARY, records);
        bench
    }

    fn step(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.merge.step(event, self.now, &mut actions);
        for action in actions {
            match action {
                Action::Publish(view) => self.views.push(view),
                Action::Report => self.reports += 1,
                Action::End => self.ended = true,
                Action::Tell(_) => {}
            }
        }
    }

    fn told(&mut self, side: Side, staleness: Staleness, records: &[&str]) {
        let mut value: Vec<_> = records.iter().map(|text| record(text)).collect();
        value.sort_by(|a, b| a.id.cmp(&b.id));
        self.step(Event::Told(side, View::new(0, staleness, value.into())));
    }

    fn fresh(&mut self, side: Side, records: &[&str]) {
        self.told(side, Staleness::Fresh, records);
    }

    fn stale(&mut self, side: Side, records: &[&str]) {
        let cause = Arc::new(Error::unavailable("asking"));
        let staleness = Staleness::Stale { since: self.now, age: Duration::ZERO, cause };
        self.told(side, staleness, records);
    }

    fn dead(&mut self, side: Side) {
        self.told(side, Staleness::Pending { cause: Some(Arc::new(Error::unavailable("asking"))) }, &[]);
    }

    fn saw(&mut self, name: &str, what: Seen) {
        self.step(Event::Saw(id(name), what));
    }

    fn after(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
        self.step(Event::Due);
    }

    fn ids(&self) -> Vec<&str> {
        self.merge.value.iter().map(|instance| instance.id.as_str()).collect()
    }
}

#[test]
fn the_first_view_waits_for_a_silent_side_and_not_for_long() {
    let mut bench = Bench::new(Read::Union);
    bench.fresh(PRIMARY, &["a"]);
    assert!(bench.views.is_empty());
    assert_eq!(bench.merge.deadline(), Some(bench.now + Duration::from_millis(500)));
    bench.after(0.5);
    assert_eq!(bench.ids(), ["a"]);
    let cause = bench.views[0].staleness.cause().unwrap().to_string();
    assert_eq!(cause, "reading the secondary side `two`");
    bench.fresh(SECONDARY, &["b"]);
    assert_eq!(bench.ids(), ["a", "b"]);
    assert!(bench.views[1].staleness.is_fresh());
}

#[test]
fn a_side_that_failed_is_not_waited_for() {
    let mut bench = Bench::new(Read::Union);
    bench.dead(SECONDARY);
    assert!(bench.views.is_empty(), "the primary may answer at once");
    bench.fresh(PRIMARY, &["a"]);
    assert_eq!((bench.ids(), bench.views.len()), (vec!["a"], 1));
    let mut bench = Bench::new(Read::Union);
    bench.dead(PRIMARY);
    bench.dead(SECONDARY);
    assert!(bench.views.iter().all(|view| view.value.is_none() && view.staleness.is_pending()));
    assert_eq!(bench.views.len(), 1);
}

#[test]
fn what_changes_nothing_is_not_published() {
    let mut bench = Bench::of(&["a", "b"]);
    let first = Arc::clone(&bench.merge.value);
    assert_eq!(bench.views.len(), 1);
    bench.fresh(PRIMARY, &["a", "b"]);
    bench.fresh(SECONDARY, &["b"]);
    bench.saw("a", Seen::Itself);
    assert_eq!(bench.views.len(), 1, "the primary shows it still");
    bench.stale(SECONDARY, &["b"]);
    bench.stale(SECONDARY, &["b"]);
    assert_eq!(bench.views.len(), 2, "the same word twice");
    bench.fresh(SECONDARY, &["a", "b"]);
    assert!(Arc::ptr_eq(&first, &bench.merge.value), "certainty is no change of members");
    assert_eq!(bench.views.len(), 3);
}

#[test]
fn leaving_wins_on_either_side_and_is_final() {
    for side in Side::BOTH {
        let mut bench = Bench::of(&["a"]);
        bench.stale(side, &["a"]);
        bench.fresh(side.other(), &["a:leaving"]);
        assert_eq!(bench.merge.value[0].status, Status::Leaving);
        bench.fresh(side.other(), &[]);
        assert!(bench.ids().is_empty());
        bench.fresh(side, &["a"]);
        bench.fresh(side.other(), &["a"]);
        assert!(bench.ids().is_empty(), "a late record of one who left");
    }
    // Also when it is the side that cannot be asked that knows it.
    let mut bench = Bench::of(&["a"]);
    bench.fresh(SECONDARY, &["a:leaving"]);
    bench.stale(SECONDARY, &["a:leaving"]);
    assert_eq!(bench.merge.value[0].status, Status::Leaving);
}

#[test]
fn a_stale_side_keeps_nobody_the_other_dropped_until_it_confirms_them() {
    let mut bench = Bench::of(&["a", "b"]);
    bench.stale(PRIMARY, &["a", "b"]);
    bench.fresh(SECONDARY, &["a"]);
    assert_eq!(bench.ids(), ["a"]);
    bench.stale(SECONDARY, &["a"]);
    assert_eq!(bench.ids(), ["a"], "that the other is lost as well brings nobody back");
    bench.fresh(PRIMARY, &["a", "b"]);
    assert_eq!(bench.ids(), ["a", "b"], "asked anew");
    bench.stale(PRIMARY, &["a", "b"]);
    assert_eq!(bench.ids(), ["a", "b"], "it has confirmed them since");
}

#[test]
fn a_snapshot_from_disk_is_as_old_as_it_says() {
    for (age, stays) in [(Duration::from_secs(3_600), false), (Duration::from_secs(10), true)] {
        let mut bench = Bench::new(Read::Primary);
        let steer = |bench: &mut Bench, read| {
            bench.step(Event::Steered(Policy { write: Write::Primary, read, ..Policy::default() }));
        };
        steer(&mut bench, Read::Primary);
        bench.fresh(PRIMARY, &["a", "b"]);
        bench.fresh(PRIMARY, &["a"]);
        bench.after(100.0);
        steer(&mut bench, Read::Union);
        let cause = Arc::new(Error::unavailable("asking"));
        bench.told(SECONDARY, Staleness::Stale { since: bench.now, age, cause }, &["a", "b"]);
        assert_eq!(bench.ids().contains(&"b"), stays, "a snapshot {age:?} old");
    }
}

#[test]
fn addresses_are_remembered_as_long_as_somebody_shows_them() {
    let mut bench = Bench::of(&["a@7", "b@8"]);
    bench.fresh(PRIMARY, &["a@9"]);
    bench.fresh(PRIMARY, &[]);
    assert!(!bench.merge.places.is_empty());
    let policy = Policy { write: Write::Primary, read: Read::Primary, ..Policy::default() };
    bench.step(Event::Steered(policy));
    assert!(bench.merge.places.is_empty());
}

#[test]
fn a_drop_is_outlived_by_half_a_minute_of_success() {
    for (seconds, stays) in [(29.0, false), (31.0, true)] {
        let mut bench = Bench::of(&["a", "b"]);
        bench.fresh(SECONDARY, &["a"]);
        assert_eq!(bench.ids(), ["a", "b"]);
        bench.after(seconds);
        bench.stale(PRIMARY, &["a", "b"]);
        assert_eq!(bench.ids().contains(&"b"), stays, "after {seconds} s");
    }
}

#[test]
fn a_fresh_record_counts_before_a_stale_one_and_the_primary_before_the_secondary() {
    let mut bench = Bench::new(Read::Union);
    bench.fresh(PRIMARY, &["a@1"]);
    bench.fresh(SECONDARY, &["a@2"]);
    let port = |bench: &Bench| bench.merge.value[0].endpoints[0].port();
    assert_eq!(port(&bench), 1);
    bench.now += Duration::from_secs(1);
    bench.stale(PRIMARY, &["a@1"]);
    assert_eq!(port(&bench), 2);
    bench.now += Duration::from_secs(1);
    bench.stale(SECONDARY, &["a@2"]);
    assert_eq!(port(&bench), 2, "the one that could be asked last");
    bench.fresh(PRIMARY, &["a@1"]);
    assert_eq!(port(&bench), 1);
}

#[test]
fn an_address_has_one_member_the_confirmed_before_the_native_before_the_youngest() {
    let mut bench = Bench::new(Read::Union);
    bench.fresh(PRIMARY, &["~f@7", "c"]);
    bench.fresh(SECONDARY, &["a@7"]);
    assert_eq!(bench.ids(), ["a", "c"], "native before foreign");
    bench.fresh(SECONDARY, &["a@7", "b@7"]);
    assert_eq!(bench.ids(), ["b", "c"], "the later start");
    bench.saw("a", Seen::Itself);
    assert_eq!(bench.ids(), ["a", "c"], "whom a connection has confirmed");
    bench.saw("a", Seen::Refused);
    assert_eq!(bench.ids(), ["b", "c"]);
    bench.saw("a", Seen::Itself);
    bench.fresh(SECONDARY, &["a@7:leaving", "b@7"]);
    assert_eq!(bench.ids(), ["b", "c"], "one that leaves makes room for its successor");
    bench.fresh(SECONDARY, &["a@7:leaving"]);
    assert_eq!(bench.ids(), ["a", "c"], "but not for its own foreign record");
}

#[test]
fn a_confirmation_that_comes_before_the_record_counts() {
    let mut bench = Bench::of(&["a@7"]);
    bench.saw("b", Seen::Itself);
    bench.saw("a", Seen::Itself);
    bench.saw("b", Seen::Itself);
    bench.fresh(SECONDARY, &["a@7", "b@7"]);
    assert_eq!(bench.ids(), ["b"]);
}

#[test]
fn a_foreign_id_is_never_buried_by_draining() {
    let mut bench = Bench::of(&["~a", "b"]);
    bench.saw("a", Seen::Draining);
    bench.saw("b", Seen::Draining);
    assert_eq!(bench.ids(), ["a"]);
}

#[test]
fn the_fallback_is_used_while_the_primary_has_trouble_and_half_a_minute_more() {
    let mut bench = Bench::new(Read::PrimaryThenSecondary);
    bench.fresh(SECONDARY, &["a", "s"]);
    assert!(bench.views.is_empty(), "the primary is waited for");
    bench.fresh(PRIMARY, &["a", "p"]);
    assert_eq!(bench.ids(), ["a", "p"]);
    bench.stale(PRIMARY, &["a", "p"]);
    assert_eq!(bench.ids(), ["a", "p", "s"]);
    bench.fresh(PRIMARY, &["a", "p"]);
    bench.after(29.0);
    assert_eq!(bench.ids(), ["a", "p", "s"]);
    assert_eq!(bench.merge.deadline(), Some(bench.now + Duration::from_secs(1)));
    bench.after(1.0);
    assert_eq!(bench.ids(), ["a", "p"]);
}

#[test]
fn a_policy_shows_and_hides_a_side_and_what_is_not_used_is_not_watched() {
    let mut bench = Bench::new(Read::Primary);
    bench.fresh(PRIMARY, &["a"]);
    assert_eq!(bench.ids(), ["a"], "the other side is compared only, and not waited for");
    assert!(bench.merge.follows(SECONDARY), "it is written");
    bench.fresh(SECONDARY, &["a", "b"]);
    assert_eq!(bench.ids(), ["a"]);
    let steer = |bench: &mut Bench, write, read| {
        let policy = Policy { write, read, ..Policy::default() };
        bench.step(Event::Steered(policy));
    };
    steer(&mut bench, Write::Both, Read::Union);
    assert_eq!(bench.ids(), ["a", "b"]);
    steer(&mut bench, Write::Secondary, Read::Secondary);
    assert!(!bench.merge.follows(PRIMARY));
    assert_eq!(bench.ids(), ["a", "b"]);
    bench.fresh(PRIMARY, &["x"]);
    assert_eq!(bench.ids(), ["a", "b"], "a late view of a side that is not watched");
    steer(&mut bench, Write::Primary, Read::Primary);
    bench.after(1.0);
    assert_eq!(bench.ids(), ["a", "b"], "nothing unknown takes the place of what is known");
    assert!(matches!(bench.merge.staleness, Staleness::Stale { .. }));
    bench.fresh(PRIMARY, &["x"]);
    assert_eq!(bench.ids(), ["x"]);
}

#[test]
fn a_side_that_is_taken_in_later_is_given_time_to_answer() {
    let mut bench = Bench::new(Read::Primary);
    let steer = |bench: &mut Bench, read| {
        bench.step(Event::Steered(Policy { write: Write::Primary, read, ..Policy::default() }));
    };
    steer(&mut bench, Read::Primary);
    bench.fresh(PRIMARY, &["a"]);
    bench.after(60.0);
    steer(&mut bench, Read::Union);
    assert_eq!(bench.views.len(), 1, "it has not had the time to say anything");
    bench.fresh(PRIMARY, &["a", "b"]);
    assert!(bench.views[1].staleness.is_fresh(), "what is known goes on meanwhile");
    bench.after(0.5);
    assert!(!bench.views[2].staleness.is_fresh());
}

#[test]
fn a_lasting_difference_is_reported_and_an_outage_is_none() {
    let mut bench = Bench::of(&["a", "b"]);
    bench.after(2.0);
    bench.fresh(SECONDARY, &["a"]);
    bench.after(10.0);
    bench.stale(SECONDARY, &["a"]);
    bench.after(60.0);
    assert_eq!(bench.reports, 0, "who cannot be asked does not disagree");
    bench.fresh(SECONDARY, &["a"]);
    assert_eq!(bench.reports, 1, "it has lasted since");
    let standing = bench.merge.standing();
    assert_eq!((standing.disagreeing, standing.instances), (1, [2, 1]));
    bench.fresh(SECONDARY, &["a", "b"]);
    bench.after(2.0);
    assert_eq!((bench.reports, bench.merge.standing().disagreeing), (2, 0));
}

#[test]
fn a_view_ends_30_s_after_its_last_watch() {
    let mut bench = Bench::of(&["a"]);
    bench.step(Event::Watched(false));
    bench.after(29.0);
    assert!(!bench.ended);
    bench.step(Event::Watched(true));
    bench.after(60.0);
    assert!(!bench.ended);
    bench.step(Event::Watched(false));
    assert_eq!(bench.merge.deadline(), Some(bench.now + Duration::from_secs(30)));
    bench.after(30.0);
    assert!(bench.ended);
}
