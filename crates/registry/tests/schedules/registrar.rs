//! A registration over a store with leases, as etcd has them.
//!
//! What must hold: nothing lives in the store that is not noted, or being released, or was given up
//! unreleased after a conflict; `Live` means at most one record; after a confirmed leaving nothing
//! appears again; leaving takes at most its time; and after calm exactly one record stands, as wished last.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use meshwork_core::{
    Departure, Error, ErrorKind, Instance, InstanceId, RegistrationState, ServiceName, Status, Wish,
};
use meshwork_registry::{
    Dice, DriverOptions,
    registrar::{Action, Event, Registrar, Work},
};
use tokio::time::Instant;

use super::clock::Clock;

const TTL: Duration = Duration::from_secs(15);
const STORM: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(150);
/// Marking must leave this much for the release.
const TIME_TO_RELEASE: Duration = Duration::from_millis(950);

type Lease = u64;

enum Due {
    /// A request reaches the store.
    Request {
        number: u64,
        request: Request,
    },
    /// A reply reaches the process.
    Reply {
        number: u64,
        reply: Reply,
    },
    /// The current work took too long.
    TimeOut {
        work: u64,
    },
    /// The rest is over.
    Rested {
        work: u64,
    },
    /// The announcer looks at its record.
    Look {
        work: u64,
    },
    /// What it saw.
    Looked {
        work: u64,
        seen: Seen,
    },
    Wish,
    Depart,
    Trouble,
    Calm,
    End,
}

#[derive(Clone, Debug)]
enum Request {
    Alive(Lease),
    Grant(Lease),
    Put(Lease, Arc<Instance>),
    Revoke(Lease),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reply {
    Done,
    NoLease,
    Taken,
    Unreachable,
    Denied,
}

#[derive(Clone, Copy, Debug)]
enum Seen {
    Right,
    Gone,
    Squatter,
    Nothing,
}

/// The store: records by lease, so that two of one process cannot hide behind one key.
#[derive(Default)]
struct Store {
    leases: BTreeMap<Lease, Instant>,
    records: BTreeMap<Lease, Arc<Instance>>,
    /// An id that another process uses.
    squatted: Option<InstanceId>,
}

impl Store {
    fn expire(&mut self, now: Instant) {
        self.leases.retain(|_, until| *until > now);
        let leases = &self.leases;
        self.records.retain(|lease, _| leases.contains_key(lease));
    }

    fn take(&mut self, request: &Request, now: Instant) -> Reply {
        match request {
            Request::Alive(lease) => match self.leases.get_mut(lease) {
                Some(until) => *until = now + TTL,
                None => return Reply::NoLease,
            },
            Request::Grant(lease) => drop(self.leases.insert(*lease, now + TTL)),
            Request::Put(_, instance) if self.squatted.as_ref() == Some(&instance.id) => return Reply::Taken,
            Request::Put(lease, _) if !self.leases.contains_key(lease) => return Reply::NoLease,
            Request::Put(lease, instance) => drop(self.records.insert(*lease, Arc::clone(instance))),
            Request::Revoke(lease) => {
                self.leases.remove(lease);
                self.records.remove(lease);
            }
        }
        Reply::Done
    }
}

/// What the announcer notes.
#[derive(Clone, Debug)]
struct Claim {
    leases: Vec<Lease>,
    written: Arc<Instance>,
}

impl Claim {
    fn current(&self) -> Lease {
        *self.leases.last().expect("invariant: a claim notes a lease")
    }
}

/// A request of the announcer that waits for its reply.
struct Waiting {
    number: u64,
    request: Request,
}

struct World {
    clock: Clock<Due>,
    tells: bool,
    store: Store,
    link_up: bool,
    denies: bool,
    calm: bool,
    frozen_until: Instant,
    /// How long it stood still in all.
    frozen_for: Duration,
    registrar: Registrar,
    wish: Wish,
    fed: Wish,
    work: Work,
    work_number: u64,
    claim: Option<Claim>,
    waiting: Option<Waiting>,
    missed_looks: u32,
    last_lease: Lease,
    last_request: u64,
    /// Leases of a release under way, and those whose release was not confirmed.
    releasing: Vec<Lease>,
    orphans: BTreeSet<Lease>,
    state: RegistrationState,
    departed_at: Option<Instant>,
}

pub(crate) fn schedule(seed: u64, tells: bool) {
    let mut clock = Clock::new(seed);
    let (options, dice) = (DriverOptions::default().with_ttl(TTL), Dice::new(Some(!seed)));
    let service = ServiceName::new("users").unwrap();
    let mut instance = Instance::with_id(service, InstanceId::new("users-0").unwrap());
    instance.weight = 1;
    let wish = Wish { instance: Arc::new(instance), departure: None };
    let registrar = Registrar::new(wish.clone(), options, dice, clock.now);
    for _ in 0..clock.draw(12) {
        let at = clock.millis(0, 60_000);
        clock.after(at, Due::Trouble);
    }
    for _ in 0..clock.draw(6) {
        let at = clock.millis(0, 70_000);
        clock.after(at, Due::Wish);
    }
    if clock.chance(60) {
        // Half of them early: in the middle of a first claim.
        let latest = if clock.chance(50) { 3_000 } else { 75_000 };
        let at = clock.millis(0, latest);
        clock.after(at, Due::Depart);
    }
    clock.after(STORM, Due::Calm);
    clock.after(STORM + CALM, Due::End);
    let link_up = clock.chance(80);
    let mut world = World {
        frozen_until: clock.now,
        frozen_for: Duration::ZERO,
        clock,
        tells,
        store: Store::default(),
        link_up,
        denies: false,
        calm: false,
        registrar,
        fed: wish.clone(),
        wish,
        work: Work::End,
        work_number: 0,
        claim: None,
        waiting: None,
        missed_looks: 0,
        last_lease: 0,
        last_request: 0,
        releasing: Vec::new(),
        orphans: BTreeSet::new(),
        state: RegistrationState::Pending { cause: None },
        departed_at: None,
    };
    world.begin_work();
    world.run();
}

impl World {
    fn run(&mut self) {
        while let Some(due) = self.clock.next() {
            self.store.expire(self.clock.now);
            if matches!(due, Due::End) {
                break;
            }
            self.handle(due);
            self.check();
        }
        self.check_end();
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            eprintln!("{:>9.3} s  {}", self.clock.elapsed().as_secs_f64(), what());
        }
    }

    fn handle(&mut self, due: Due) {
        let is_ours = !matches!(due, Due::Request { .. } | Due::Trouble | Due::Calm | Due::End);
        if is_ours && self.clock.now < self.frozen_until {
            return self.clock.at(self.frozen_until, due);
        }
        match due {
            Due::Request { number, request } => self.requested(number, &request),
            Due::Reply { number, reply } => self.replied(number, reply),
            Due::TimeOut { work } if work == self.work_number => {
                self.waiting = None;
                self.done(Err(ErrorKind::Unavailable));
            }
            Due::Rested { work } if work == self.work_number => self.feed(Event::Due),
            Due::Look { work } if work == self.work_number => self.look(),
            Due::Looked { work, seen } if work == self.work_number => self.looked(seen),
            Due::TimeOut { .. } | Due::Rested { .. } | Due::Look { .. } | Due::Looked { .. } => {}
            Due::Wish => {
                let mut instance = (*self.wish.instance).clone();
                instance.weight += 1;
                self.tell(|| format!("wish weight {}", instance.weight));
                self.wish.instance = Arc::new(instance);
                self.wish_changed();
            }
            Due::Depart => {
                let how = if self.clock.chance(80) { Departure::Marked } else { Departure::Silent };
                self.tell(|| format!("depart {how:?} while {:?}", self.work));
                self.wish.departure = Some(how);
                self.wish_changed();
            }
            Due::Trouble if !self.calm => self.trouble(),
            Due::Trouble | Due::End => {}
            Due::Calm => {
                self.tell(|| "calm".to_owned());
                (self.calm, self.link_up, self.denies) = (true, true, false);
            }
        }
    }

    fn trouble(&mut self) {
        let record = self.store.records.keys().next_back().copied();
        match self.clock.draw(9) {
            0 | 1 => {
                self.link_up = !self.link_up;
                self.tell(|| format!("link up: {}", self.link_up));
            }
            2 => {
                self.tell(|| "wiped".to_owned());
                self.store.leases.clear();
                self.store.records.clear();
            }
            3 => {
                self.tell(|| "lease revoked by hand".to_owned());
                if let Some(lease) = record {
                    self.store.take(&Request::Revoke(lease), self.clock.now);
                }
            }
            4 => {
                self.tell(|| "record deleted by hand".to_owned());
                if let Some(lease) = record {
                    self.store.records.remove(&lease);
                }
            }
            5 => {
                self.tell(|| "record edited by hand".to_owned());
                if let Some(instance) = record.and_then(|lease| self.store.records.get_mut(&lease)) {
                    Arc::make_mut(instance).weight = 60_000;
                }
            }
            6 => {
                self.denies = !self.denies;
                self.tell(|| format!("denies: {}", self.denies));
            }
            7 => {
                self.tell(|| "id used by another".to_owned());
                let id = self.wish.instance.id.clone();
                // Its record took the place of ours, or stands beside it as after a merge of two stores.
                if self.clock.chance(50) {
                    self.store.records.retain(|_, record| record.id != id);
                }
                self.store.squatted = Some(id);
            }
            _ => {
                let gap = self.clock.millis(100, 40_000);
                self.tell(|| format!("process stands still for {gap:?}"));
                self.frozen_for += gap;
                self.frozen_until = self.frozen_until.max(self.clock.now + gap);
                // The shell sees the gap when it goes on, if it is long enough.
                if gap > TTL / 3 && self.work == Work::Hold {
                    let work = self.work_number;
                    self.clock.at(self.frozen_until, Due::Looked { work, seen: Seen::Nothing });
                }
            }
        }
    }

    // === the announcer ===

    /// Sends a request, which may be lost on the way or answered late, never, or twice.
    fn send(&mut self, request: Request) {
        self.last_request += 1;
        let number = self.last_request;
        self.waiting = Some(Waiting { number, request: request.clone() });
        if !self.link_up && self.clock.chance(60) {
            let delay = self.clock.millis(1, 50);
            return self.clock.after(delay, Due::Reply { number, reply: Reply::Unreachable });
        }
        if !self.link_up || (!self.calm && self.clock.chance(5)) {
            return;
        }
        let late = !self.calm && self.clock.chance(10);
        let delay = if late { self.clock.millis(500, 12_000) } else { self.clock.millis(1, 30) };
        self.clock.after(delay, Due::Request { number, request });
    }

    fn requested(&mut self, number: u64, request: &Request) {
        // A request on its way when the link broke may still arrive.
        let reply = if self.denies { Reply::Denied } else { self.store.take(request, self.clock.now) };
        self.tell(|| format!("store: {request:?} -> {reply:?}"));
        if !self.link_up || (!self.calm && self.clock.chance(5)) {
            return;
        }
        let times = if self.clock.chance(10) { 2 } else { 1 };
        for _ in 0..times {
            let late = !self.calm && self.clock.chance(10);
            let delay = if late { self.clock.millis(500, 12_000) } else { self.clock.millis(1, 30) };
            self.clock.after(delay, Due::Reply { number, reply });
        }
    }

    fn new_lease(&mut self) -> Lease {
        self.last_lease += 1;
        self.last_lease
    }

    /// Notes a new lease, then asks for it.
    fn grant(&mut self) {
        let (lease, written) = (self.new_lease(), Arc::clone(self.instance_of_work()));
        match &mut self.claim {
            Some(claim) => claim.leases.push(lease),
            None => self.claim = Some(Claim { leases: vec![lease], written }),
        }
        self.send(Request::Grant(lease));
    }

    fn put(&mut self) {
        let instance = Arc::clone(self.instance_of_work());
        let claim = self.claim.as_mut().expect("invariant: a put follows a note");
        claim.written = Arc::clone(&instance);
        let lease = claim.current();
        self.send(Request::Put(lease, instance));
    }

    fn instance_of_work(&self) -> &Arc<Instance> {
        match &self.work {
            Work::Claim(instance) | Work::Update(instance) | Work::Mark(instance, _) => instance,
            other => panic!("{other:?} has no instance"),
        }
    }

    fn begin_work(&mut self) {
        self.work = self.registrar.work(self.clock.now);
        self.work_number += 1;
        self.waiting = None;
        let (work, now) = (self.work_number, self.clock.now);
        self.tell(|| format!("work: {:?}", self.work));
        let limit = match &self.work {
            Work::Claim(_) => {
                match self.claim.as_ref().map(Claim::current) {
                    Some(lease) => self.send(Request::Alive(lease)),
                    None => self.grant(),
                }
                Some(Duration::from_secs(3))
            }
            Work::Update(_) => {
                self.put();
                Some(Duration::from_secs(3))
            }
            Work::Mark(_, limit) => {
                let limit = *limit;
                self.put();
                Some(limit)
            }
            Work::Release(limit) => {
                let limit = *limit;
                let least = TIME_TO_RELEASE.saturating_sub(self.frozen_for);
                assert!(limit >= least, "a release has {limit:?} only");
                let claim = self.claim.take().expect("invariant: a release has something noted");
                self.releasing = claim.leases;
                self.send(Request::Revoke(self.releasing[0]));
                Some(limit)
            }
            Work::Hold => {
                self.missed_looks = 0;
                self.clock.after(Duration::from_millis(5), Due::Look { work });
                None
            }
            Work::Rest(until) => {
                let (until, late) = (*until, self.clock.millis(0, 20));
                self.clock.at(until + late, Due::Rested { work });
                None
            }
            Work::End => None,
            other => panic!("unknown work {other:?}"),
        };
        if let Some(limit) = limit {
            self.clock.at(now + limit, Due::TimeOut { work });
        }
    }

    fn replied(&mut self, number: u64, reply: Reply) {
        let Some(Waiting { request, .. }) = self.waiting.take_if(|waiting| waiting.number == number) else {
            return;
        };
        match (reply, request, &self.work) {
            (Reply::Unreachable, ..) => self.done(Err(ErrorKind::Unavailable)),
            (Reply::Denied, ..) => self.done(Err(ErrorKind::Denied)),
            (Reply::Taken, ..) => self.done(Err(ErrorKind::Conflict)),
            (Reply::Done, Request::Alive(_) | Request::Grant(_), _) => self.put(),
            (Reply::NoLease, _, Work::Claim(_)) => self.grant(),
            (Reply::NoLease, ..) => self.done(Err(ErrorKind::Unavailable)),
            (Reply::Done, Request::Put(..), Work::Claim(_)) => self.end_older(),
            (Reply::Done, Request::Put(..), _) => self.done(Ok(())),
            (Reply::Done, Request::Revoke(lease), Work::Claim(_)) => {
                let claim = self.claim.as_mut().expect("invariant: a claim under way is noted");
                claim.leases.retain(|noted| *noted != lease);
                self.end_older();
            }
            (Reply::Done, Request::Revoke(lease), _) => {
                self.releasing.retain(|releasing| *releasing != lease);
                match self.releasing.first() {
                    Some(next) => self.send(Request::Revoke(*next)),
                    None => self.done(Ok(())),
                }
            }
        }
    }

    /// A claim is complete only when no older lease can outlive it.
    fn end_older(&mut self) {
        let claim = self.claim.as_ref().expect("invariant: a claim under way is noted");
        match claim.leases.first().filter(|lease| **lease != claim.current()) {
            Some(older) => self.send(Request::Revoke(*older)),
            None => self.done(Ok(())),
        }
    }

    /// Looks at the own record, and keeps the lease alive.
    fn look(&mut self) {
        let work = self.work_number;
        let claim = self.claim.as_ref().expect("invariant: what is held is noted");
        let lease = claim.current();
        let seen = if !self.link_up || self.denies {
            Seen::Nothing
        } else if self.store.squatted.as_ref() == Some(&claim.written.id) {
            Seen::Squatter
        } else if self.store.take(&Request::Alive(lease), self.clock.now) == Reply::NoLease
            || self.store.records.get(&lease) != Some(&claim.written)
        {
            Seen::Gone
        } else {
            Seen::Right
        };
        let delay = self.clock.millis(1, 300);
        self.clock.after(delay, Due::Looked { work, seen });
    }

    fn looked(&mut self, seen: Seen) {
        let work = self.work_number;
        let stood_still = self.frozen_until == self.clock.now;
        match seen {
            Seen::Nothing if stood_still => {
                self.feed(Event::Paused(TTL));
                let is_live = matches!(self.state, RegistrationState::Live);
                return assert!(!is_live, "live after a standstill, before it was verified");
            }
            Seen::Nothing => self.missed_looks += 1,
            Seen::Right => self.missed_looks = 0,
            Seen::Gone => return self.lose(ErrorKind::Unavailable, false),
            Seen::Squatter => return self.lose(ErrorKind::Conflict, false),
        }
        if self.missed_looks > 2 {
            return self.lose(ErrorKind::Unavailable, true);
        }
        self.clock.after(Duration::from_millis(1500), Due::Look { work });
    }

    // === the shell ===

    fn lose(&mut self, kind: ErrorKind, registry_away: bool) {
        self.feed(Event::Lost { error: Arc::new(Error::new(kind, "holding")), registry_away });
    }

    fn done(&mut self, result: Result<(), ErrorKind>) {
        if matches!(self.work, Work::Release(_)) {
            // What was not confirmed may live on until its time to live.
            let unconfirmed = std::mem::take(&mut self.releasing);
            self.orphans.extend(unconfirmed);
        }
        let result = result.map_err(|kind| Arc::new(Error::new(kind, "working")));
        self.feed(Event::Done { result, noted: self.claim.is_some() });
    }

    fn wish_changed(&mut self) {
        match self.work {
            Work::Hold | Work::Rest(_) => self.feed_wish(),
            Work::Claim(_) | Work::Update(_) if self.wish.departure.is_some() => {
                self.feed(Event::Cut { noted: self.claim.is_some() });
            }
            _ => {}
        }
    }

    fn feed_wish(&mut self) {
        let mut actions = Vec::new();
        self.fed = self.wish.clone();
        if self.wish.departure.is_some() {
            self.departed_at.get_or_insert(self.clock.now);
        }
        self.registrar.step(Event::Wished(self.fed.clone()), self.clock.now, &mut actions);
        self.act(actions);
        self.begin_work();
    }

    fn feed(&mut self, event: Event) {
        let mut actions = Vec::new();
        if !Arc::ptr_eq(&self.fed.instance, &self.wish.instance) || self.fed.departure != self.wish.departure
        {
            self.fed = self.wish.clone();
            if self.wish.departure.is_some() {
                self.departed_at.get_or_insert(self.clock.now);
            }
            self.registrar.step(Event::Wished(self.fed.clone()), self.clock.now, &mut actions);
        }
        self.registrar.step(event, self.clock.now, &mut actions);
        self.act(actions);
        self.begin_work();
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Publish(state) => {
                    self.tell(|| format!("state: {state:?}"));
                    self.state = state;
                }
                Action::Rename(id) => {
                    let mut instance = (*self.wish.instance).clone();
                    instance.id = id;
                    self.wish.instance = Arc::new(instance);
                }
                Action::Tell(_) => {}
                other => panic!("unknown action {other:?}"),
            }
        }
    }

    // === what must hold ===

    fn check(&self) {
        let noted: &[Lease] = self.claim.as_ref().map_or(&[], |claim| &claim.leases);
        for (lease, record) in &self.store.records {
            assert!(
                noted.contains(lease) || self.releasing.contains(lease) || self.orphans.contains(lease),
                "`{}` lives under lease {lease}, of which nobody knows any more (state {:?})",
                record.id,
                self.state
            );
        }
        let living = self.store.records.keys().filter(|lease| !self.orphans.contains(lease)).count();
        if matches!(self.state, RegistrationState::Live) {
            assert!(living <= 1, "{living} live records of one process");
        }
        if matches!(self.state, RegistrationState::Gone { outcome: Ok(()) }) {
            assert!(self.store.records.is_empty(), "a record lives after leaving was confirmed");
        }
        if let Some(departed) = self.departed_at
            && !matches!(self.state, RegistrationState::Gone { .. })
            && self.clock.now >= self.frozen_until
        {
            let began = departed.max(self.frozen_until);
            let took = self.clock.now.duration_since(began);
            assert!(took <= Duration::from_millis(2_100), "leaving takes {took:?}");
        }
    }

    fn check_end(&self) {
        if self.wish.departure.is_some() {
            assert!(matches!(self.state, RegistrationState::Gone { .. }), "it left, but is {:?}", self.state);
            assert!(self.store.records.is_empty(), "a record outlives its time to live");
            return;
        }
        assert!(matches!(self.state, RegistrationState::Live), "after calm it is {:?}", self.state);
        let records: Vec<_> = self.store.records.values().collect();
        assert_eq!(records.len(), 1, "after calm there is exactly one record");
        assert_eq!(*records[0], self.wish.instance, "after calm it is the wished one");
        assert_eq!(records[0].status, Status::Up);
    }
}
