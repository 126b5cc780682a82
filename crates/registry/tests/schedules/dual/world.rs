//! Providers, the two registries they write, and the views of them that reach the union.

mod fleet;
mod registries;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use meshwork_core::{
    Error, Instance, InstanceId, Origin, Query, Seen, ServiceName, Staleness, Status, Timestamp,
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
