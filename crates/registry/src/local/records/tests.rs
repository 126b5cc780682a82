use meshwork_core::encode;

use super::*;
use crate::local::record::{frame, parse};

/// A reader of one record, with a clock and a process of the test's own.
struct Reader {
    records: Records,
    decoder: Decoder,
    now: Instant,
    life: Life,
    beat: i64,
    file: FileId,
}

impl Reader {
    fn new() -> Self {
        let file =
            std::env::current_dir().and_then(std::fs::metadata).map(|found| FileId::of(&found)).unwrap();
        let (records, decoder) = (Records::default(), Decoder::default());
        Self { records, decoder, now: Instant::now(), life: Life::Lives, beat: 0, file }
    }

    fn see(&mut self, look: Look<'_>, hint: Hint) -> (Then, Vec<Change>) {
        let (mut news, life) = (News::default(), self.life);
        let mut step = Step {
            now: self.now,
            service: &service(),
            place: "here",
            hint,
            ttl: Duration::from_secs(10),
            decoder: &mut self.decoder,
            life: &|_| life,
        };
        let then = self.records.see(&id(), look, &mut step, &mut news);
        (then, news.into_changes())
    }

    fn read(&mut self, file: &[u8]) -> (Then, Vec<Change>) {
        self.see(Look::Held { file: self.file, beat: (self.beat, 0), content: parse(file) }, Hint::Due)
    }

    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    fn is_listed(&self) -> bool {
        !self.records.instances().is_empty()
    }
}

fn service() -> ServiceName {
    ServiceName::new("users").unwrap()
}

fn id() -> InstanceId {
    InstanceId::new("users-1").unwrap()
}

fn file(weight: u16, status: Status) -> Vec<u8> {
    let mut instance = Instance::with_id(service(), id());
    // The same bytes at every call.
    instance.start_time = None;
    instance.endpoints.push("http://127.0.0.1:80".parse().unwrap());
    (instance.weight, instance.status) = (weight, status);
    frame(&encode(&instance).unwrap())
}

fn is_put(changes: &[Change]) -> bool {
    matches!(changes, [Change::Delta { put, removed }] if put.len() == 1 && removed.is_empty())
}

fn is_removed(changes: &[Change]) -> bool {
    matches!(changes, [Change::Delta { put, removed }] if put.is_empty() && *removed == [id()])
}

fn is_refused(changes: &[Change], kind: RefusalKind) -> bool {
    matches!(changes, [Change::Refused { id: Some(_), reason, .. }] if reason.kind() == kind)
}

#[test]
fn a_torn_record_is_read_again_and_told_once_if_it_stays_so() {
    let mut reader = Reader::new();
    let good = file(1, Status::Up);
    assert!(is_put(&reader.read(&good).1));
    let (mut pauses, mut told) = (Vec::new(), 0);
    for _ in 0..20 {
        let (then, changes) = reader.read(&good[..good.len() - 2]);
        told += usize::from(is_refused(&changes, RefusalKind::Syntax));
        assert!(reader.is_listed());
        pauses.push(then.again.unwrap());
        reader.pass(then.again.unwrap().as_secs_f64());
    }
    assert_eq!((told, pauses[0], pauses[19]), (1, AGAIN.0, AGAIN.1));
    assert!(is_put(&reader.read(&file(2, Status::Up)).1));
    assert_eq!(reader.records.complaints().count(), 0);
}

#[test]
fn a_heartbeat_is_judged_by_whether_it_changes() {
    let mut reader = Reader::new();
    let good = file(1, Status::Up);
    reader.read(&good);
    reader.life = Life::Gone;
    for beat in 1..5 {
        reader.pass(9.0);
        // Backwards, as after a wall clock that was set.
        reader.beat = -beat;
        assert!(reader.read(&good).1.is_empty());
    }
    reader.pass(11.0);
    assert!(is_removed(&reader.read(&good).1));
    assert!(reader.read(&good).1.is_empty());
    reader.beat = 7;
    assert!(is_put(&reader.read(&good).1));
}

#[test]
fn a_frozen_process_and_one_we_cannot_judge_stay() {
    for life in [Life::Lives, Life::Unknown] {
        let mut reader = Reader::new();
        let good = file(1, Status::Up);
        reader.read(&good);
        reader.life = life;
        reader.pass(3600.0);
        assert!(reader.read(&good).1.is_empty() && reader.is_listed());
    }
}

#[test]
fn a_vanished_record_of_a_living_process_has_time_to_come_back() {
    let mut reader = Reader::new();
    let good = file(1, Status::Up);
    reader.read(&good);
    let (then, changes) = reader.see(Look::Gone, Hint::Due);
    assert!(changes.is_empty() && then.again == Some(RETURN));
    reader.pass(2.0);
    assert!(reader.read(&good).1.is_empty());
    reader.see(Look::Gone, Hint::Due);
    reader.pass(3.1);
    assert!(is_removed(&reader.see(Look::Gone, Hint::Due).1));
}

#[test]
fn what_left_or_died_goes_at_once() {
    let gone = |hint, life, status| {
        let mut reader = Reader::new();
        reader.read(&file(1, status));
        reader.life = life;
        is_removed(&reader.see(Look::Gone, hint).1)
    };
    assert!(gone(Hint::Left, Life::Lives, Status::Up));
    assert!(gone(Hint::Marked, Life::Lives, Status::Leaving));
    assert!(gone(Hint::Due, Life::Gone, Status::Up));
    assert!(gone(Hint::Due, Life::Unknown, Status::Up));
    assert!(gone(Hint::Due, Life::Lives, Status::Leaving));
    assert!(!gone(Hint::Closed, Life::Lives, Status::Up));
    let mut reader = Reader::new();
    reader.read(&file(1, Status::Up));
    let (then, changes) = reader.see(Look::Dead { ours: true }, Hint::Closed);
    assert!(then.bury && is_removed(&changes));
}

#[test]
fn a_refusal_is_told_once_and_the_last_good_record_stands() {
    let mut reader = Reader::new();
    assert!(is_put(&reader.read(&file(1, Status::Up)).1));
    let bad = frame(br#"{"schema":2}"#);
    assert!(is_refused(&reader.read(&bad).1, RefusalKind::Schema));
    assert!(reader.read(&bad).1.is_empty() && reader.is_listed());
    let other = frame(&encode(&Instance::new(service())).unwrap_or_default());
    let other = reader.read(&other).1;
    assert!(matches!(other[..], [Change::Refused { .. }]) && reader.is_listed());
    assert!(reader.read(&file(1, Status::Up)).1.is_empty());
    assert_eq!(reader.records.complaints().count(), 0);
}

#[test]
fn a_mark_is_told_though_only_the_removal_was_seen_in_time() {
    let mut reader = Reader::new();
    reader.read(&file(1, Status::Up));
    let (_, changes) = reader.see(Look::Gone, Hint::Marked);
    assert!(matches!(&changes[0], Change::Delta { put, .. } if put[0].status == Status::Leaving));
    assert!(is_removed(&changes[1..]));
}

#[test]
fn a_mark_and_a_removal_of_one_moment_are_told_in_order() {
    let mut news = News::default();
    let mut instance = Instance::with_id(service(), id());
    instance.status = Status::Leaving;
    news.put(Arc::new(instance));
    news.removed(&id());
    assert!(matches!(&news.into_changes()[..], [Change::Delta { put, .. }, Change::Delta { removed, .. }]
        if put.len() == 1 && removed.len() == 1));
}
