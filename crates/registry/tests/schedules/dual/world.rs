//! Providers, the two registries they write, and the views of them that reach the union.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use meshwork_core::{
    Error, ErrorKind, Instance, InstanceId, Instances, Origin, Query, Seen, ServiceName, Staleness, Status,
    Timestamp, View,
};
use meshwork_registry::dual::{
    Policy, Read, Side, Write,
    merge::{Action, Event, Merge},
};
use tokio::time::Instant;

use super::rules::Rules;
use crate::clock::Clock;

const STORM: Duration = Duration::from_secs(90);
const CALM: Duration = Duration::from_secs(150);

enum Due {
    /// A provider does something.
    Provider,
    /// A registry has trouble.
    Trouble,
    /// A registry can be reached again.
    Back(Side),
    /// The backend notices that its registry is gone.
    Notice {
        side: Side,
        outage: u64,
    },
    /// A view arrives.
    Arrive {
        side: Side,
        epoch: u64,
        view: Box<Told>,
    },
    /// A record goes from one registry.
    Remove {
        side: Side,
        id: InstanceId,
        version: u16,
    },
    /// The owner of a record puts it back.
    Heal {
        side: Side,
        id: InstanceId,
    },
    /// A held instance is let go.
    LetGo {
        side: Side,
        id: InstanceId,
    },
    Evidence,
    Steer,
    /// The deadline of the state machine, perhaps late.
    Deadline {
        number: u64,
    },
    Calm,
    End,
}

/// What a side's view says.
#[derive(Clone)]
pub(super) struct Told {
    pub(super) records: BTreeMap<InstanceId, Arc<Instance>>,
    pub(super) held: BTreeSet<InstanceId>,
}

/// A process as it is in fact.
#[derive(Clone)]
struct Process {
    port: u16,
    start: u64,
    version: u16,
    native: bool,
    /// The native process it is an alias of.
    alias: bool,
    alive: bool,
    left: bool,
    sides: [bool; 2],
}

struct Registry {
    truth: BTreeMap<InstanceId, Arc<Instance>>,
    held: BTreeSet<InstanceId>,
    /// Whether the process that merges can reach it.
    up: bool,
    outage: u64,
    /// Raised when the side is watched anew.
    epoch: u64,
    arrives: Instant,
    /// The pointers of what arrived last: an equal record keeps its own.
    shown: BTreeMap<InstanceId, Arc<Instance>>,
    staleness: Staleness,
}

struct World {
    clock: Clock<Due>,
    tells: bool,
    calm: bool,
    merge: Merge,
    rules: Rules,
    policy: Policy,
    processes: BTreeMap<InstanceId, Process>,
    registries: [Registry; 2],
    last: u16,
    deadline_number: u64,
    followed: [bool; 2],
}

pub(crate) fn schedule(seed: u64, tells: bool) {
    let mut clock = Clock::new(seed);
    for _ in 0..5 + clock.draw(30) {
        let at = clock.millis(0, 90_000);
        clock.after(at, Due::Provider);
    }
    for _ in 0..clock.draw(8) {
        let at = clock.millis(0, 90_000);
        // Flapping comes in series.
        for n in 0..1 + if clock.chance(20) { clock.draw(10) } else { 0 } {
            clock.after(at + Duration::from_secs(n), Due::Trouble);
        }
    }
    for _ in 0..clock.draw(20) {
        let at = clock.millis(0, 90_000);
        clock.after(at, Due::Evidence);
    }
    if clock.chance(60) {
        for _ in 0..clock.draw(6) {
            let at = clock.millis(0, 90_000);
            clock.after(at, Due::Steer);
        }
    }
    clock.after(STORM, Due::Calm);
    clock.after(STORM + CALM, Due::End);
    let mut policy = Policy::default();
    if clock.chance(30) {
        policy.read = Read::PrimaryThenSecondary;
    }
    if clock.chance(10) {
        policy.read = Read::Primary;
    }
    let now = clock.now;
    let query = Query::new(ServiceName::new("users").unwrap());
    let names = ["one".into(), "two".into()];
    let registry = || Registry {
        truth: BTreeMap::new(),
        held: BTreeSet::new(),
        up: true,
        outage: 0,
        epoch: 0,
        arrives: now,
        shown: BTreeMap::new(),
        staleness: Staleness::Pending { cause: None },
    };
    let mut world = World {
        merge: Merge::new(query, names, [true, true], policy, now),
        rules: Rules::new(policy, now),
        clock,
        tells,
        calm: false,
        policy,
        processes: BTreeMap::new(),
        registries: [registry(), registry()],
        last: 0,
        deadline_number: 0,
        followed: [false; 2],
    };
    world.begin();
    while let Some(due) = world.clock.next() {
        if matches!(due, Due::End) {
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

    fn begin(&mut self) {
        for side in Side::BOTH {
            for _ in 0..self.clock.draw(3) {
                self.start(Some(side));
            }
            match self.clock.draw(10) {
                // Dead from the start, and noticed soon or late.
                0 => self.cut(side),
                // A snapshot of an earlier run, from disk.
                1 => {
                    self.registries[side as usize].up = false;
                    let age = self.clock.millis(0, 3_600_000);
                    let cause = Arc::new(Error::unavailable("reading the registry"));
                    let staleness = Staleness::Stale { since: self.clock.now, age, cause };
                    self.registries[side as usize].staleness = staleness;
                    let back = self.clock.millis(0, 20_000);
                    self.clock.after(back, Due::Back(side));
                }
                _ => {}
            }
        }
        self.follow();
        self.expect_deadline();
    }

    fn handle(&mut self, due: Due) {
        match due {
            Due::Provider => self.provider(),
            Due::Trouble => self.trouble(),
            Due::Back(side) => self.back(side),
            Due::Notice { side, outage } => self.notice(side, outage),
            Due::Arrive { side, epoch, view } => self.arrive(side, epoch, *view),
            Due::Remove { side, id, version } => {
                let truth = &self.registries[side as usize].truth;
                if truth.get(&id).is_some_and(|record| record.weight == version) {
                    self.remove(side, &id);
                }
            }
            Due::Heal { side, id } => self.heal(side, &id),
            Due::LetGo { side, id } => {
                if self.registries[side as usize].held.remove(&id) {
                    self.send(side);
                }
            }
            Due::Evidence => self.evidence(),
            Due::Steer => self.steer(),
            Due::Deadline { number } if number == self.deadline_number => self.feed(Event::Due),
            Due::Deadline { .. } => {}
            Due::Calm | Due::End => self.calm_down(),
        }
    }

    // === providers ===

    fn provider(&mut self) {
        let alive: Vec<_> =
            self.processes.iter().filter(|(_, p)| p.alive).map(|(id, _)| id.clone()).collect();
        let any = |world: &mut Self| alive[world.clock.draw(alive.len() as u64) as usize].clone();
        match self.clock.draw(16) {
            _ if alive.is_empty() => self.start(None),
            0..=3 => self.start(None),
            4 => {
                // Another registrar writes a record of a process we know, under another id.
                let of = any(self);
                let process = self.processes[&of].clone();
                let side = self.any_side();
                let id = InstanceId::new(format!("alias-{}-{}", process.port, side.as_str())).unwrap();
                if process.native {
                    let alias = Process { native: false, alias: true, sides: only(side), ..process };
                    self.processes.insert(id.clone(), alias);
                    self.write(side, &id, Status::Up);
                }
            }
            5..=7 => {
                let id = any(self);
                self.last += 1;
                let version = self.last;
                self.known(&id).version = version;
                self.write_all(&id, Status::Up);
            }
            8 | 9 => {
                let id = any(self);
                self.leave(&id);
            }
            10 | 11 => {
                // It dies: its records run out, each in its time.
                let id = any(self);
                self.tell(|| format!("{id} dies"));
                self.known(&id).alive = false;
                self.run_out(&id, 15_000);
            }
            12 => {
                // It is cut from one registry for a while.
                let (id, side) = (any(self), self.any_side());
                if self.registries[side as usize].truth.contains_key(&id) {
                    self.tell(|| format!("{id} is cut from the {side} side"));
                    self.remove(side, &id);
                    let back = self.clock.millis(1_000, 60_000);
                    self.clock.after(back, Due::Heal { side, id });
                }
            }
            13 => {
                // It moves: the other side first, then this one is left in silence.
                let (id, side) = (any(self), self.any_side());
                self.tell(|| format!("{id} leaves the {side} side alone"));
                self.known(&id).sides[side.other() as usize] = true;
                self.write(side.other(), &id, Status::Up);
                self.known(&id).sides[side as usize] = false;
                self.remove(side, &id);
            }
            14 => {
                // A late write brings back one who left.
                let left: Vec<_> =
                    self.processes.iter().filter(|(_, p)| p.left).map(|(id, _)| id.clone()).collect();
                if !left.is_empty() {
                    let id = left[self.clock.draw(left.len() as u64) as usize].clone();
                    let side = self.any_side();
                    self.write(side, &id, Status::Up);
                }
            }
            _ => {
                let id = any(self);
                self.write_all(&id, if self.last.is_multiple_of(2) { Status::Unready } else { Status::Up });
            }
        }
    }

    fn start(&mut self, only_on: Option<Side>) {
        self.last += 1;
        let number = self.last;
        // An address is used again, by a process that has taken the place of a dead one.
        let dead: Vec<_> = self.processes.values().filter(|p| !p.alive).map(|p| p.port).collect();
        let taken = |port: u16| self.processes.values().any(|p| p.alive && p.port == port);
        let free: Vec<_> = dead.into_iter().filter(|port| !taken(*port)).collect();
        let reuses = !free.is_empty() && self.clock.chance(50);
        let port = if reuses { free[self.clock.draw(free.len() as u64) as usize] } else { 1_000 + number };
        let native = self.clock.chance(85);
        let id = if native { format!("users-{number}") } else { format!("host-{port}") };
        let id = InstanceId::new(id).unwrap();
        let sides = match (only_on, self.clock.draw(10)) {
            (Some(side), 0..=4) => only(side),
            (None, 0) => only(Side::Primary),
            (None, 1) => only(Side::Secondary),
            _ => [true; 2],
        };
        let start = u64::from(number);
        let (version, alive, left, alias) = (number, true, false, false);
        let process = Process { port, start, version, native, alias, alive, left, sides };
        self.processes.insert(id.clone(), process);
        self.write_all(&id, Status::Up);
    }

    fn leave(&mut self, id: &InstanceId) {
        let process = self.known(id);
        (process.alive, process.left) = (false, process.native);
        if process.native {
            self.tell(|| format!("{id} leaves"));
            self.last += 1;
            self.known(id).version = self.last;
            for side in Side::BOTH {
                // The mark reaches whichever registry can be reached.
                if self.processes[id].sides[side as usize] && self.clock.chance(80) {
                    self.write(side, id, Status::Leaving);
                }
            }
        }
        self.run_out(id, 2_000);
    }

    fn run_out(&mut self, id: &InstanceId, within: u64) {
        let port = self.processes[id].port;
        let aliases = self.processes.iter().filter(|(_, p)| p.alias && p.alive && p.port == port);
        let ids: Vec<_> = aliases.map(|(id, _)| id.clone()).chain([id.clone()]).collect();
        for id in ids {
            self.known(&id).alive = false;
            for side in Side::BOTH {
                let Some(record) = self.registries[side as usize].truth.get(&id) else { continue };
                let version = record.weight;
                let delay = self.clock.millis(0, within);
                self.clock.after(delay, Due::Remove { side, id: id.clone(), version });
            }
        }
    }

    fn heal(&mut self, side: Side, id: &InstanceId) {
        let process = &self.processes[id];
        if process.alive && process.sides[side as usize] {
            self.write(side, id, Status::Up);
        }
    }

    fn known(&mut self, id: &InstanceId) -> &mut Process {
        self.processes.get_mut(id).expect("invariant: only known ids are asked for")
    }

    fn any_side(&mut self) -> Side {
        Side::BOTH[self.clock.draw(2) as usize]
    }

    // === registries ===

    fn write_all(&mut self, id: &InstanceId, status: Status) {
        for side in Side::BOTH {
            if self.processes[id].sides[side as usize] {
                self.write(side, id, status);
            }
        }
    }

    fn write(&mut self, side: Side, id: &InstanceId, status: Status) {
        let record = Arc::new(record(id, &self.processes[id], status));
        self.tell(|| format!("{side}: {id} = {}:{status:?}", record.weight));
        let registry = &mut self.registries[side as usize];
        registry.held.remove(id);
        registry.truth.insert(id.clone(), record);
        self.send(side);
    }

    fn remove(&mut self, side: Side, id: &InstanceId) {
        let keeps = !self.calm && self.clock.chance(15);
        let registry = &mut self.registries[side as usize];
        let Some(record) = registry.truth.remove(id) else { return };
        self.tell(|| format!("{side}: {id} is gone"));
        if keeps && record.status != Status::Leaving {
            self.registries[side as usize].held.insert(id.clone());
            let later = self.clock.millis(100, 10_000);
            self.clock.after(later, Due::LetGo { side, id: id.clone() });
        }
        self.send(side);
    }

    fn trouble(&mut self) {
        let side = self.any_side();
        if self.clock.chance(20) {
            self.tell(|| format!("{side}: wiped"));
            let ids: Vec<_> = self.registries[side as usize].truth.keys().cloned().collect();
            for id in ids {
                self.remove(side, &id);
                let back = self.clock.millis(100, 5_000);
                self.clock.after(back, Due::Heal { side, id });
            }
        }
        if self.registries[side as usize].up && self.clock.chance(80) {
            self.cut(side);
        }
    }

    /// From now on nothing arrives; that it is so is noticed soon or late.
    fn cut(&mut self, side: Side) {
        self.tell(|| format!("{side}: cut"));
        let (late, long) = (self.clock.chance(30), self.clock.chance(30));
        let noticed = self.clock.millis(0, if late { 10_000 } else { 50 });
        let back = self.clock.millis(0, if long { 60_000 } else { 2_000 });
        let registry = &mut self.registries[side as usize];
        registry.up = false;
        registry.outage += 1;
        let outage = registry.outage;
        self.clock.after(noticed, Due::Notice { side, outage });
        self.clock.after(back, Due::Back(side));
    }

    fn notice(&mut self, side: Side, outage: u64) {
        let now = self.clock.now;
        let registry = &mut self.registries[side as usize];
        if registry.up || registry.outage != outage {
            return;
        }
        let cause = Arc::new(Error::new(ErrorKind::Unavailable, format!("outage {outage}")));
        registry.staleness = match &registry.staleness {
            Staleness::Pending { .. } => Staleness::Pending { cause: Some(cause) },
            Staleness::Stale { since, age, .. } => Staleness::Stale { since: *since, age: *age, cause },
            _ => Staleness::Stale { since: now, age: Duration::ZERO, cause },
        };
        self.show(side);
    }

    fn back(&mut self, side: Side) {
        let registry = &mut self.registries[side as usize];
        if !registry.up {
            registry.up = true;
            // What was on its way when it was cut is lost.
            registry.epoch += 1;
            self.tell(|| format!("{side}: back"));
            self.send(side);
        }
    }

    /// Lets what the registry holds now arrive.
    fn send(&mut self, side: Side) {
        let late = !self.calm && self.clock.chance(10);
        let delay = if late { self.clock.millis(100, 3_000) } else { self.clock.millis(0, 20) };
        let now = self.clock.now;
        let registry = &mut self.registries[side as usize];
        if !registry.up || !self.followed[side as usize] {
            return;
        }
        registry.arrives = registry.arrives.max(now + delay);
        let mut records = registry.truth.clone();
        for id in &registry.held {
            if let Some(shown) = registry.shown.get(id) {
                records.insert(id.clone(), Arc::clone(shown));
            }
        }
        let held = registry.held.iter().filter(|id| records.contains_key(*id)).cloned().collect();
        let view = Box::new(Told { records, held });
        let (epoch, at) = (registry.epoch, registry.arrives);
        self.clock.at(at, Due::Arrive { side, epoch, view });
    }

    fn arrive(&mut self, side: Side, epoch: u64, mut view: Told) {
        let registry = &mut self.registries[side as usize];
        if registry.epoch != epoch || !registry.up {
            return;
        }
        for (id, record) in &mut view.records {
            if let Some(known) = registry.shown.get(id).filter(|known| *known == record) {
                *record = Arc::clone(known);
            }
        }
        registry.staleness = Staleness::Fresh;
        registry.shown = view.records;
        let held = view.held;
        self.show_with(side, held);
    }

    fn show(&mut self, side: Side) {
        let held = self.registries[side as usize].held.clone();
        self.show_with(side, held);
    }

    fn show_with(&mut self, side: Side, held: BTreeSet<InstanceId>) {
        if !self.followed[side as usize] {
            return;
        }
        let registry = &self.registries[side as usize];
        let records = registry.shown.clone();
        let held: BTreeSet<_> = held.into_iter().filter(|id| records.contains_key(id)).collect();
        let value: Arc<Instances> = records.values().cloned().collect();
        let staleness = registry.staleness.clone();
        let view = View::new(0, staleness.clone(), value).with_held(held.iter().cloned().collect());
        self.tell(|| {
            let ids: Vec<_> = records.values().map(|r| format!("{}:{:?}", r.id, r.status)).collect();
            format!("{side} shows {} {ids:?}", short(&staleness))
        });
        self.rules.told(side, staleness, Told { records, held }, self.clock.now);
        self.feed(Event::Told(side, view));
    }

    // === clients and operators ===

    fn evidence(&mut self) {
        let ids: Vec<_> = self.processes.keys().cloned().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.clock.draw(ids.len() as u64) as usize].clone();
        let process = &self.processes[&id];
        let seen = match (process.alive, process.native, process.left) {
            // Only a native one can say who it is.
            (true, true, _) => Seen::Itself,
            (_, true, true) if self.clock.chance(50) => Seen::Draining,
            (false, _, _) if self.clock.chance(50) => Seen::Refused,
            (false, _, _) => Seen::Another,
            _ => return,
        };
        self.tell(|| format!("a client saw {id}: {seen:?}"));
        self.rules.saw(&id, seen);
        self.feed(Event::Saw(id, seen));
    }

    fn steer(&mut self) {
        self.policy.read = match self.clock.draw(6) {
            0 => Read::Primary,
            1 => Read::Secondary,
            2 => Read::PrimaryThenSecondary,
            _ => Read::Union,
        };
        self.policy.write = match self.clock.draw(4) {
            0 => Write::Primary,
            1 => Write::Secondary,
            _ => Write::Both,
        };
        self.steered();
    }

    fn steered(&mut self) {
        self.tell(|| format!("steer to {:?} {:?}", self.policy.read, self.policy.write));
        self.rules.steered(self.policy, self.clock.now);
        self.feed(Event::Steered(self.policy));
    }

    /// Watches what the state machine wants to be watched; a new watch knows nothing.
    fn follow(&mut self) {
        for side in Side::BOTH {
            let follows = self.merge.follows(side);
            assert_eq!(follows, self.policy.watches(side), "a side is watched when it is read or written");
            if std::mem::replace(&mut self.followed[side as usize], follows) == follows {
                continue;
            }
            let registry = &mut self.registries[side as usize];
            registry.epoch += 1;
            if !follows {
                registry.shown.clear();
                registry.staleness = Staleness::Pending { cause: None };
                continue;
            }
            if matches!(registry.staleness, Staleness::Stale { .. }) {
                registry.shown = registry.truth.clone();
            }
            self.show(side);
            self.send(side);
            let outage = self.registries[side as usize].outage;
            self.clock.after(Duration::from_secs(5), Due::Notice { side, outage });
        }
    }

    fn feed(&mut self, event: Event) {
        let mut actions = Vec::new();
        let now = self.clock.now;
        self.merge.step(event, now, &mut actions);
        for action in actions {
            if let Action::Publish(publication) = action {
                self.tell(|| {
                    let value = publication.value.as_ref();
                    let ids = value
                        .map(|v| v.iter().map(|i| format!("{}:{:?}", i.id, i.status)).collect::<Vec<_>>());
                    format!("union {} {ids:?}", short(&publication.staleness))
                });
                self.rules.published(publication);
            }
        }
        self.rules.check(now);
        self.follow();
        self.expect_deadline();
    }

    fn expect_deadline(&mut self) {
        self.deadline_number += 1;
        if let Some(deadline) = self.merge.deadline() {
            let late = if self.clock.chance(20) { self.clock.millis(0, 30) } else { Duration::ZERO };
            let number = self.deadline_number;
            self.clock.at(deadline + late, Due::Deadline { number });
        }
    }

    // === the end ===

    fn calm_down(&mut self) {
        self.tell(|| "calm".to_owned());
        self.calm = true;
        self.policy = Policy::default();
        self.steered();
        for side in Side::BOTH {
            let written = self.registries[side as usize].truth.keys();
            let dead: Vec<_> = written.filter(|id| !self.processes[*id].alive).cloned().collect();
            dead.iter().for_each(|id| self.remove(side, id));
            self.registries[side as usize].held.clear();
            let all: Vec<_> =
                self.processes.iter().filter(|(_, p)| p.alive).map(|(id, _)| id.clone()).collect();
            all.iter().for_each(|id| self.heal(side, id));
            self.back(side);
            self.send(side);
        }
    }

    fn check_end(&self) {
        let (staleness, shown) = self.rules.view();
        assert!(staleness.is_fresh(), "after calm the union is {staleness:?}");
        let ids: BTreeSet<_> = shown.iter().map(|instance| instance.id.clone()).collect();
        let alive = self.processes.iter().filter(|(_, p)| p.alive && !p.alias && p.sides != [false; 2]);
        let expected: BTreeSet<_> = alive.map(|(id, _)| id.clone()).collect();
        assert_eq!(ids, expected, "after calm the union is not the truth");
        for instance in shown {
            assert_eq!(instance.weight, self.processes[&instance.id].version, "after calm a record is old");
        }
    }
}

fn only(side: Side) -> [bool; 2] {
    Side::BOTH.map(|one| one == side)
}

fn record(id: &InstanceId, process: &Process, status: Status) -> Instance {
    let mut instance = Instance::with_id(ServiceName::new("users").unwrap(), id.clone());
    (instance.weight, instance.status) = (process.version, status);
    instance.start_time = process.native.then(|| Timestamp::from_millis(process.start));
    instance.origin = if process.native { Origin::Native } else { Origin::Foreign };
    let schemes = if process.native { &["http", "grpc"][..] } else { &["http"] };
    let endpoints = schemes.iter().map(|scheme| format!("{scheme}://10.0.0.1:{}", process.port));
    instance.endpoints = endpoints.map(|text| text.parse().unwrap()).collect();
    instance
}

fn short(staleness: &Staleness) -> String {
    match staleness {
        Staleness::Fresh => "fresh".to_owned(),
        Staleness::Pending { cause } => format!("pending ({cause:?})"),
        Staleness::Stale { cause, .. } => format!("stale ({cause})"),
        other => format!("{other:?}"),
    }
}
