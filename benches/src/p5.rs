//! P5: one decoded change in, picker stored, against copying a `Vec<Arc>` of the same length.
//!
//! The path is that of a client: the reflector's step over a delta, the entries of the client's book, the members of
//! the new snapshot, the picker, the store. A change is a new version of a record, as most are; one instance more is
//! printed beside it and not judged.

use std::{hint::black_box, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use meshwork_balance::{Member, P2c, Peers, Picker, Policy, Roster};
use meshwork_core::{BoxError, Change, Instance, Instances, Query, ServiceName};
use meshwork_registry::{
    Dice, DriverOptions,
    reflector::{Action, Event, Reflector},
};

use crate::{
    cpu, fleet,
    rounds::Rounds,
    verdict::{Findings, Mode, Verdict},
};

const ROUNDS: usize = 51;
const WARM_UP: usize = 4;
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let rounds = mode.rounds(ROUNDS);
    let sizes = mode.of(SIZES, SIZES.map(|size| size / 10));
    let (mut findings, mut bring_up) = (Findings::new(mode), Vec::new());
    for size in sizes {
        let (mut bring_up_of, mut path) = Path::new(size)?;
        for _ in 0..2 {
            let again;
            (again, path) = Path::new(size)?;
            bring_up_of = bring_up_of.min(again);
        }
        bring_up.push(bring_up_of);
        let copied: Vec<Arc<Instance>> = path.known.to_vec();
        let (mut ours, mut peer, mut view) = (Rounds::default(), Rounds::default(), Rounds::default());
        for round in 0..rounds + WARM_UP {
            let changed = path.change(round * 7919 % size)?;
            let began = cpu::of_thread();
            let of_view = path.apply(changed)?;
            let took = cpu::of_thread() - began;
            let began = cpu::of_thread();
            black_box(copied.clone());
            if round >= WARM_UP {
                peer.push(micros(cpu::of_thread() - began));
                ours.push(micros(took));
                view.push(micros(of_view));
            }
        }
        let mut newcomer = Rounds::default();
        for _ in 0..rounds.min(11) {
            let one_more = path.newcomer()?;
            let began = cpu::of_thread();
            path.apply(one_more)?;
            newcomer.push(micros(cpu::of_thread() - began));
        }
        let ratio = ours.over(&peer).spread();
        findings.text(format!(
            "N={size} {ratio} ({:.0} us, of them the view {:.0}; copy {:.0}; one instance more {:.0})",
            ours.median(),
            view.median(),
            peer.median(),
            newcomer.median()
        ));
        let place = format!("N={size}");
        findings.at_most(ratio.median, 2.0, &place);
        findings.steady(peer.spread(), &place);
    }
    let linear = bring_up[2].as_secs_f64() / bring_up[1].as_secs_f64() / 10.0;
    findings.text(format!(
        "bring-up of {} {:.1} ms, {linear:.2} of linear to {}",
        sizes[1],
        bring_up[1].as_secs_f64() * 1e3,
        sizes[2]
    ));
    findings.at_most(linear, 1.5, &"bring-up");
    Ok(findings.verdict(&format!("P5 one change to picker stored / copy of Vec<Arc>, {rounds} rounds")))
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// From a change to the stored picker.
struct Path {
    reflector: Reflector,
    epoch: u64,
    /// Later than any coalescing, at each change.
    now: tokio::time::Instant,
    known: Arc<Instances>,
    peers: Arc<Peers>,
    attachment: Arc<()>,
    /// As the client's book keeps them, sorted by id.
    entries: Vec<Member>,
    roster: Roster,
    replaced: Option<Arc<Stored>>,
    stored: ArcSwap<Stored>,
}

struct Stored {
    members: Arc<[Member]>,
    picker: Box<dyn Picker>,
}

impl Stored {
    fn new(members: Arc<[Member]>) -> Self {
        Self { picker: P2c::default().picker(Arc::clone(&members)), members }
    }
}

impl Path {
    /// Also tells how long the first set took to its picker.
    fn new(size: usize) -> Result<(Duration, Self), BoxError> {
        let mut options = DriverOptions::default().with_seed(1);
        options.max_records = usize::MAX;
        options.max_bytes = usize::MAX;
        let now = tokio::time::Instant::now();
        let query = Query::new(ServiceName::new("users")?);
        let set =
            (0..size).map(|index| Ok(Arc::new(fleet::instance(index)?))).collect::<Result<_, BoxError>>()?;
        let mut path = Self {
            reflector: Reflector::new(query, options, Dice::new(Some(1)), now),
            epoch: 0,
            now,
            known: Arc::new([]),
            peers: Peers::new(fleet::now),
            attachment: Arc::new(()),
            entries: Vec::new(),
            roster: Roster::default(),
            replaced: None,
            stored: ArcSwap::from_pointee(Stored::new(Arc::new([]))),
        };
        let mut actions = Vec::new();
        path.reflector.step(Event::Due, now, &mut actions);
        for action in actions {
            if let Action::Subscribe { epoch } = action {
                path.epoch = epoch;
            }
        }
        let began = cpu::of_thread();
        path.apply(Change::Set(set))?;
        Ok((cpu::of_thread() - began, path))
    }

    /// A new version of one of them.
    fn change(&self, at: usize) -> Result<Change, BoxError> {
        let mut instance = Instance::clone(self.known.get(at).ok_or("the fleet is smaller than that")?);
        instance.app_version = format!("{}+", instance.app_version).into();
        Ok(Change::Delta { put: vec![Arc::new(instance)], removed: Vec::new() })
    }

    /// One more.
    fn newcomer(&self) -> Result<Change, BoxError> {
        let instance = fleet::instance(self.known.len())?;
        Ok(Change::Delta { put: vec![Arc::new(instance)], removed: Vec::new() })
    }

    /// Returns how long the view took.
    fn apply(&mut self, change: Change) -> Result<Duration, BoxError> {
        let began = cpu::of_thread();
        self.now += Duration::from_secs(1);
        let mut actions = Vec::new();
        self.reflector.step(Event::Changed { epoch: self.epoch, change }, self.now, &mut actions);
        let published = actions.into_iter().find_map(|action| match action {
            Action::Publish(publication) => publication.value,
            _ => None,
        });
        self.known = published.ok_or("a change was not published")?;
        let of_view = cpu::of_thread() - began;
        if self.entries.len() == self.known.len() {
            self.restate();
        } else {
            self.merge();
        }
        if let Some(replaced) = self.replaced.take().and_then(Arc::into_inner) {
            drop(replaced.picker);
            self.roster.take_back(replaced.members);
        }
        let members = self.roster.list(self.entries.iter());
        self.replaced = Some(self.stored.swap(Arc::new(Stored::new(members))));
        Ok(of_view)
    }

    /// The same ids: only what changed is touched.
    fn restate(&mut self) {
        for (entry, instance) in self.entries.iter_mut().zip(&*self.known) {
            if !Arc::ptr_eq(entry.instance(), instance) {
                *entry = Member::new(Arc::clone(entry.node()), Arc::clone(instance));
            }
        }
    }

    /// Walks the old and the new list together.
    fn merge(&mut self) {
        let mut old = std::mem::take(&mut self.entries).into_iter().peekable();
        self.entries.reserve_exact(self.known.len());
        for instance in &*self.known {
            if let Some(same) = old.next_if(|entry| Arc::ptr_eq(entry.instance(), instance)) {
                self.entries.push(same);
                continue;
            }
            while old.next_if(|entry| entry.instance().id < instance.id).is_some() {}
            let entry = match old.next_if(|entry| entry.instance().id == instance.id) {
                Some(same) if Arc::ptr_eq(same.instance(), instance) => same,
                Some(before) => Member::new(Arc::clone(before.node()), Arc::clone(instance)),
                None => {
                    let node = fleet::node(instance, &self.peers, &self.attachment);
                    Member::new(node, Arc::clone(instance))
                }
            };
            self.entries.push(entry);
        }
    }
}
