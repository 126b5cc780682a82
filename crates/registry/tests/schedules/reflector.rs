//! A view of a store that changes, spoils records, and is read over streams that break, hang, repeat
//! themselves and go on talking after they were given up.
//!
//! What must hold: a Fresh view is the truth of the newest revision that was read; no view and no record
//! in it goes back; who was seen leaving never is up again; a spoiled record keeps its last good one;
//! publications keep their distance; and after calm the view is the truth.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use meshwork_core::{
    Change, Error, ErrorKind, Instance, InstanceId, Instances, Query, Refusal, RefusalKind, Seen,
    ServiceName, Staleness, Status,
};
use meshwork_registry::{
    Dice, DriverOptions,
    reflector::{Action, Event, Publication, Reflector},
};
use tokio::time::Instant;

use super::clock::Clock;

const STORM: Duration = Duration::from_secs(40);
const CALM: Duration = Duration::from_secs(80);
const COALESCE: Duration = Duration::from_millis(20);
const LINGER: Duration = Duration::from_secs(30);

enum Due {
    /// The stream tells the next thing.
    Told {
        epoch: u64,
        revision: u64,
        change: Change,
    },
    /// The stream ends.
    Broken {
        epoch: u64,
        kind: ErrorKind,
    },
    /// The deadline of the state machine, perhaps late.
    Deadline {
        number: u64,
    },
    Write,
    Evidence,
    Watched(bool),
    /// The stream there is breaks.
    Break,
    Calm,
    End,
}

/// One record: its content counts up with each write.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Written {
    version: u16,
    status: Status,
    is_spoiled: bool,
}

type Truth = BTreeMap<InstanceId, Written>;

/// A subscription as the store sees it.
struct Stream {
    epoch: u64,
    /// Up to which revision it was told.
    revision: u64,
    /// When the last thing told arrives: a stream keeps its order.
    arrives: Instant,
}

struct World {
    clock: Clock<Due>,
    tells: bool,
    calm: bool,
    reflector: Reflector,
    deadline_number: u64,
    truths: Vec<Truth>,
    next_id: u64,
    last_version: u16,
    stream: Option<Stream>,
    // === what a reader may know ===
    read: Option<u64>,
    /// Whether the stream there is has told its first set.
    follows: bool,
    newest: u64,
    good: BTreeMap<InstanceId, (u16, Status)>,
    refused: BTreeSet<InstanceId>,
    left: BTreeSet<InstanceId>,
    unwatched: Option<Instant>,
    // === what was published ===
    view: Vec<(InstanceId, u16, Status)>,
    staleness: Staleness,
    published: Option<Instant>,
    dirty_since: Option<Instant>,
    ended: bool,
}

pub(crate) fn schedule(seed: u64, tells: bool) {
    let mut clock = Clock::new(seed);
    for _ in 0..10 + clock.draw(60) {
        let at = clock.millis(0, 40_000);
        // Some come in a burst.
        for _ in 0..1 + if clock.chance(20) { clock.draw(10) } else { 0 } {
            let apart = clock.millis(0, 15);
            clock.after(at + apart, Due::Write);
        }
    }
    for _ in 0..clock.draw(12) {
        let at = clock.millis(0, 40_000);
        clock.after(at, Due::Break);
        // Something happens while nobody reads.
        let later = clock.millis(0, 500);
        clock.after(at + later, Due::Write);
    }
    for _ in 0..clock.draw(4) {
        let at = clock.millis(0, 40_000);
        clock.after(at, Due::Evidence);
    }
    if clock.chance(20) {
        let gone = clock.millis(0, 40_000);
        clock.after(gone, Due::Watched(false));
        let back = clock.millis(0, 40_000);
        clock.after(gone + back, Due::Watched(true));
    }
    clock.after(STORM, Due::Calm);
    clock.after(STORM + CALM, Due::End);
    let query = Query::new(ServiceName::new("users").unwrap());
    let reflector = Reflector::new(query, DriverOptions::default(), Dice::new(Some(!seed)), clock.now);
    let mut world = World {
        clock,
        tells,
        calm: false,
        reflector,
        deadline_number: 0,
        truths: vec![Truth::new()],
        next_id: 0,
        last_version: 0,
        stream: None,
        read: None,
        follows: false,
        newest: 0,
        good: BTreeMap::new(),
        refused: BTreeSet::new(),
        left: BTreeSet::new(),
        unwatched: None,
        view: Vec::new(),
        staleness: Staleness::Pending { cause: None },
        published: None,
        dirty_since: None,
        ended: false,
    };
    world.expect_deadline();
    while let Some(due) = world.clock.next() {
        if matches!(due, Due::End) || world.ended {
            break;
        }
        world.handle(due);
    }
    world.check_end();
}

impl World {
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            eprintln!("{:>9.3} s  {}", self.clock.elapsed().as_secs_f64(), what());
        }
    }

    fn handle(&mut self, due: Due) {
        match due {
            Due::Told { epoch, revision, change } => {
                self.read(epoch, revision, &change);
                self.feed(Event::Changed { epoch, change });
            }
            Due::Broken { epoch, kind } => {
                self.tell(|| format!("stream {epoch} broken: {kind}"));
                if self.stream.as_ref().is_some_and(|stream| stream.epoch == epoch) {
                    self.follows = false;
                    self.refused.clear();
                    self.dirty();
                }
                self.feed(Event::Failed { epoch, error: Arc::new(Error::new(kind, "watching")) });
            }
            Due::Deadline { number } if number == self.deadline_number => self.feed(Event::Due),
            Due::Deadline { .. } => {}
            Due::Write => self.write(),
            Due::Evidence => {
                let ids: Vec<_> = self.good.keys().cloned().collect();
                if !ids.is_empty() {
                    let id = ids[self.clock.draw(ids.len() as u64) as usize].clone();
                    self.tell(|| format!("{id} says it is draining"));
                    self.left.insert(id.clone());
                    self.dirty();
                    self.feed(Event::Saw(id, Seen::Draining));
                }
            }
            Due::Watched(is_watched) => {
                self.unwatched = (!is_watched).then_some(self.clock.now);
                self.feed(Event::Watched(is_watched));
            }
            Due::Break => {
                if let Some(epoch) = self.stream.as_ref().map(|stream| stream.epoch) {
                    let kind = if self.clock.chance(90) { ErrorKind::Unavailable } else { ErrorKind::Denied };
                    // At once, though what was told before is still on its way.
                    self.clock.after(Duration::ZERO, Due::Broken { epoch, kind });
                }
            }
            Due::Calm | Due::End => self.calm = true,
        }
    }

    // === the store ===

    fn write(&mut self) {
        let mut truth = self.truths.last().expect("invariant: there is a first truth").clone();
        self.last_version += 1;
        let version = self.last_version;
        let known: Vec<_> = truth.keys().cloned().collect();
        let any = |world: &mut Self| known[world.clock.draw(known.len() as u64) as usize].clone();
        let spoiled: Vec<_> = truth.iter().filter(|(_, w)| w.is_spoiled).map(|(id, _)| id.clone()).collect();
        let (id, written) = match self.clock.draw(12) {
            // A late or repeated put of one that may be gone.
            0 if self.next_id > 0 => {
                let id = InstanceId::new(format!("users-{}", 1 + self.clock.draw(self.next_id))).unwrap();
                (id, Some(Written { version, status: Status::Up, is_spoiled: false }))
            }
            0..=3 => {
                self.next_id += 1;
                let id = InstanceId::new(format!("users-{}", self.next_id)).unwrap();
                (id, Some(Written { version, status: Status::Up, is_spoiled: false }))
            }
            _ if known.is_empty() => return,
            4 | 5 => (any(self), Some(Written { version, status: Status::Up, is_spoiled: false })),
            6 => (any(self), Some(Written { version, status: Status::Leaving, is_spoiled: false })),
            7 => {
                let id = any(self);
                let spoiled = Written { is_spoiled: true, version, ..truth[&id] };
                (id, Some(spoiled))
            }
            8 | 9 if !spoiled.is_empty() => (spoiled[0].clone(), None),
            _ => (any(self), None),
        };
        match written {
            Some(written) => drop(truth.insert(id.clone(), written)),
            None => drop(truth.remove(&id)),
        }
        self.tell(|| format!("revision {}: {id} = {written:?}", self.truths.len()));
        self.truths.push(truth);
        let delay = self.delay();
        self.stream_on(delay);
    }

    fn delay(&mut self) -> Duration {
        let late = !self.calm && self.clock.chance(10);
        if late { self.clock.millis(100, 3_000) } else { self.clock.millis(0, 20) }
    }

    /// Lets the stream tell the newest revision.
    fn stream_on(&mut self, delay: Duration) {
        let revision = self.truths.len() as u64 - 1;
        let Some(stream) = &mut self.stream else { return };
        stream.arrives = stream.arrives.max(self.clock.now + delay);
        let (epoch, at) = (stream.epoch, stream.arrives);
        stream.revision = revision;
        if self.clock.chance(10) {
            // The whole set once more, as sources read it from time to time.
            let changes = self.list(revision);
            return self.send(epoch, revision, at, &changes);
        }
        let (before, after) = (&self.truths[revision as usize - 1], &self.truths[revision as usize]);
        let mut delta = (Vec::new(), Vec::new());
        let mut changes = Vec::new();
        for (id, written) in after.iter().filter(|(id, written)| before.get(*id) != Some(*written)) {
            match written.is_spoiled {
                true => changes.push(refused(id)),
                false => delta.0.push(instance(id, written)),
            }
        }
        delta.1.extend(before.keys().filter(|id| !after.contains_key(*id)).cloned());
        changes.push(Change::Delta { put: delta.0, removed: delta.1 });
        self.send(epoch, revision, at, &changes);
    }

    /// What is told once arrives once, or twice.
    fn send(&mut self, epoch: u64, revision: u64, at: Instant, changes: &[Change]) {
        let times = if self.clock.chance(10) { 2 } else { 1 };
        for _ in 0..times {
            for change in changes.iter().cloned() {
                self.clock.at(at, Due::Told { epoch, revision, change });
            }
        }
    }

    fn subscribe(&mut self, epoch: u64) {
        self.tell(|| format!("subscribe {epoch}"));
        // What the stream before told late is on its way still.
        let delay = self.delay();
        let at = self.clock.now + delay;
        let revision = self.truths.len() as u64 - 1;
        self.stream = Some(Stream { epoch, revision, arrives: at });
        if !self.calm && self.clock.chance(15) {
            let kind = if self.clock.chance(95) { ErrorKind::Unavailable } else { ErrorKind::Protocol };
            return self.clock.at(at, Due::Broken { epoch, kind });
        }
        let mut changes = self.list(revision);
        if !self.calm && self.clock.chance(15) {
            // It breaks in the middle of its list.
            changes.pop();
            self.send(epoch, revision, at, &changes);
            return self.clock.at(at, Due::Broken { epoch, kind: ErrorKind::Unavailable });
        }
        self.send(epoch, revision, at, &changes);
    }

    /// All records of a revision, as a list tells them.
    fn list(&self, revision: u64) -> Vec<Change> {
        let truth = &self.truths[revision as usize];
        let mut changes: Vec<_> =
            truth.iter().filter(|(_, written)| written.is_spoiled).map(|(id, _)| refused(id)).collect();
        let good = truth.iter().filter(|(_, written)| !written.is_spoiled);
        changes.push(Change::Set(good.map(|(id, written)| instance(id, written)).collect()));
        changes
    }

    // === what a reader may know: the rules once more, as plainly as can be ===

    fn read(&mut self, epoch: u64, revision: u64, change: &Change) {
        if self.stream.as_ref().is_none_or(|stream| stream.epoch != epoch) {
            return self.tell(|| format!("late from stream {epoch}: revision {revision}"));
        }
        self.tell(|| format!("read revision {revision}: {}", short(change)));
        match change {
            Change::Refused { id, .. } => {
                self.refused.extend(id.clone());
                return;
            }
            Change::Set(set) => {
                self.follows = true;
                let listed: BTreeSet<_> = set.iter().map(|instance| &instance.id).collect();
                self.good.retain(|id, _| listed.contains(id) || self.refused.contains(id));
                set.iter().for_each(|instance| self.put(instance));
            }
            Change::Delta { put, removed } => {
                put.iter().for_each(|instance| self.put(instance));
                self.good.retain(|id, _| !removed.contains(id));
            }
            _ => {}
        }
        self.refused.clear();
        self.read = Some(revision);
        self.newest = self.newest.max(revision);
        self.dirty();
    }

    fn put(&mut self, instance: &Instance) {
        if instance.status == Status::Leaving {
            self.left.insert(instance.id.clone());
        }
        self.good.insert(instance.id.clone(), (instance.weight, instance.status));
    }

    fn dirty(&mut self) {
        self.dirty_since.get_or_insert(self.clock.now);
    }

    // === the shell ===

    fn feed(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.reflector.step(event, self.clock.now, &mut actions);
        let mut ends = false;
        for action in actions {
            match action {
                Action::Subscribe { epoch } => self.subscribe(epoch),
                Action::Unsubscribe => self.stream = None,
                Action::Publish(publication) => self.published(&publication),
                Action::End => ends = true,
                _ => {}
            }
        }
        if ends {
            return self.end();
        }
        self.expect_deadline();
        let newest_is_out = self.reflector.deadline().is_none_or(|at| at > self.clock.now + COALESCE);
        if newest_is_out && !self.ended {
            // What was read changed nothing, or is published.
            self.dirty_since = None;
            assert!(self.follows || !self.staleness.is_fresh(), "fresh without a stream");
            self.check_fresh();
        }
    }

    fn expect_deadline(&mut self) {
        self.deadline_number += 1;
        if let Some(deadline) = self.reflector.deadline() {
            let late = if self.clock.chance(20) { self.clock.millis(0, 30) } else { Duration::ZERO };
            let number = self.deadline_number;
            self.clock.at(deadline + late, Due::Deadline { number });
        }
    }

    fn end(&mut self) {
        let unwatched = self.unwatched.expect("a watched view does not end");
        assert!(self.clock.now.duration_since(unwatched) >= LINGER, "a view ends before its time");
        if self.clock.chance(50) {
            self.unwatched = None;
            self.feed(Event::Watched(true));
        } else {
            self.ended = true;
        }
    }

    // === what must hold ===

    fn published(&mut self, publication: &Publication) {
        if let Some(before) = self.published {
            let apart = self.clock.now.duration_since(before);
            assert!(apart >= COALESCE, "two views {apart:?} apart");
        }
        self.published = Some(self.clock.now);
        self.dirty_since = None;
        if let Some(value) = &publication.value {
            self.check_value(value);
            self.view = value.iter().map(|i| (i.id.clone(), i.weight, i.status)).collect();
        }
        self.staleness = publication.staleness.clone();
        self.tell(|| {
            let ids: Vec<_> = self.view.iter().map(|(id, ..)| id.as_str()).collect();
            format!("view {:?}: {ids:?}", self.staleness)
        });
        assert!(self.staleness.is_pending() == self.read.is_none(), "pending means that nothing was read");
        self.check_fresh();
    }

    fn check_value(&self, value: &Instances) {
        assert!(value.is_sorted_by(|a, b| a.id < b.id), "a view is sorted by id");
        for instance in value {
            let before = self.view.iter().find(|(id, ..)| *id == instance.id);
            if let Some((id, version, status)) = before {
                assert!(instance.weight >= *version, "{id} goes back from version {version}");
                let comes_back = *status == Status::Leaving && instance.status == Status::Up;
                assert!(!comes_back, "{id} was leaving and is up again");
            }
            let is_up_again = instance.status == Status::Up && self.left.contains(&instance.id);
            assert!(!is_up_again, "{} left and is up again", instance.id);
        }
    }

    /// A Fresh view is what was read last, but for those who left.
    fn check_fresh(&self) {
        if !self.staleness.is_fresh() || self.dirty_since.is_some() {
            return;
        }
        assert!(self.follows, "fresh before the set was read");
        assert_eq!(self.read, Some(self.newest), "a fresh view is older than what was seen");
        let of_view: Vec<_> = self.view.iter().filter(|(id, ..)| !self.left.contains(id)).cloned().collect();
        let expected: Vec<_> = self
            .good
            .iter()
            .filter(|(id, _)| !self.left.contains(*id))
            .map(|(id, (version, status))| (id.clone(), *version, *status))
            .collect();
        assert_eq!(of_view, expected, "a fresh view differs from revision {:?}", self.read);
    }

    fn check_end(&self) {
        if self.ended {
            return;
        }
        assert!(self.staleness.is_fresh(), "after calm the view is {:?}", self.staleness);
        assert_eq!(self.read, Some(self.truths.len() as u64 - 1), "after calm the newest revision is read");
        let truth = self.truths.last().expect("invariant: there is a first truth");
        for (id, version, _) in self.view.iter().filter(|(id, ..)| !self.left.contains(id)) {
            let written = truth.get(id).unwrap_or_else(|| panic!("after calm {id} is in the view only"));
            assert!(written.is_spoiled || written.version == *version, "after calm {id} is old");
        }
        for (id, written) in truth.iter().filter(|(id, _)| !self.left.contains(*id)) {
            let is_shown = self.view.iter().any(|(shown, ..)| shown == id);
            assert!(is_shown || written.is_spoiled, "after calm {id} is not in the view");
        }
    }
}

fn instance(id: &InstanceId, written: &Written) -> Arc<Instance> {
    let mut instance = Instance::with_id(ServiceName::new("users").unwrap(), id.clone());
    (instance.weight, instance.status, instance.start_time) = (written.version, written.status, None);
    Arc::new(instance)
}

fn refused(id: &InstanceId) -> Change {
    let reason = Refusal::new(RefusalKind::Syntax, "spoiled");
    Change::Refused { id: Some(id.clone()), record: id.as_str().into(), reason }
}

fn short(change: &Change) -> String {
    let ids = |instances: &[Arc<Instance>]| {
        instances.iter().map(|i| format!("{}:{}:{:?}", i.id, i.weight, i.status)).collect::<Vec<_>>()
    };
    match change {
        Change::Set(set) => format!("set {:?}", ids(set)),
        Change::Delta { put, removed } => format!("put {:?} removed {removed:?}", ids(put)),
        other => format!("{other:?}"),
    }
}
