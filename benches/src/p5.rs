//! P5: one decoded change in, picker stored, against copying a `Vec<Arc>` of the same length.
//!
//! The path is the real one: the reflector's step over a delta, the members of the new snapshot, the picker,
//! the store.

use std::{hint::black_box, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use meshwork_balance::{Member, P2c, Peers, Picker, Policy};
use meshwork_core::{BoxError, Change, Instance, Instances, Query, ServiceName};
use meshwork_registry::{
    Dice, DriverOptions,
    reflector::{Action, Event, Reflector},
};

use crate::{cpu, fleet, rounds::Rounds, verdict::Verdict};

const ROUNDS: usize = 55;
const SIZES: [usize; 3] = [1_000, 10_000, 100_000];

pub(crate) fn run() -> Verdict {
    match measure() {
        Ok(verdict) => verdict,
        Err(error) => Verdict::unusable(format!("P5: {error}")),
    }
}

fn measure() -> Result<Verdict, BoxError> {
    let (mut texts, mut misses, mut bring_up, mut uneven) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for size in SIZES {
        let (mut bring_up_of, mut path) = Path::new(size)?;
        for _ in 0..2 {
            let again;
            (again, path) = Path::new(size)?;
            bring_up_of = bring_up_of.min(again);
        }
        bring_up.push(bring_up_of);
        let copied: Vec<Arc<Instance>> = path.known.to_vec();
        let (mut ours, mut peer, mut view) = (Rounds::default(), Rounds::default(), Rounds::default());
        for round in 0..ROUNDS {
            let changed = path.change(round * 7919 % size)?;
            let began = cpu::of_thread();
            let of_view = path.apply(changed)?;
            let took = cpu::of_thread() - began;
            let began = cpu::of_thread();
            black_box(copied.clone());
            // The first rounds warm up.
            if round > 3 {
                peer.push(micros(cpu::of_thread() - began));
                ours.push(micros(took));
                view.push(micros(of_view));
            }
        }
        if peer.spread().swing() > 0.1 {
            uneven.push(size);
        }
        let ratio = ours.over(&peer).spread();
        texts.push(format!(
            "N={size} {ratio} ({:.0} us, of them the view {:.0}; copy {:.0})",
            ours.median(),
            view.median(),
            peer.median()
        ));
        if ratio.median > 2.0 {
            misses.push(format!("N={size} above 2"));
        }
    }
    let linear = bring_up[2].as_secs_f64() / bring_up[1].as_secs_f64() / 10.0;
    if linear > 1.5 {
        misses.push("bring-up not linear".into());
    }
    let line = format!(
        "P5 one change to picker stored / copy of Vec<Arc>, {ROUNDS} rounds: {}; bring-up of 10k {:.1} ms, {linear:.2} of linear",
        texts.join("; "),
        bring_up[1].as_secs_f64() * 1e3
    );
    Ok(Verdict::judged(&line, &misses, &uneven))
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
    members: Arc<[Member]>,
    stored: ArcSwap<Stored>,
}

struct Stored {
    _picker: Box<dyn Picker>,
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
        let nobody: Arc<[Member]> = Arc::new([]);
        let mut path = Self {
            reflector: Reflector::new(query, options, Dice::new(Some(1)), now),
            epoch: 0,
            now,
            known: Arc::new([]),
            peers: Peers::new(fleet::now),
            attachment: Arc::new(()),
            stored: ArcSwap::from_pointee(Stored { _picker: P2c::default().picker(Arc::clone(&nobody)) }),
            members: nobody,
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
        self.members = self.next_members();
        let picker = P2c::default().picker(Arc::clone(&self.members));
        self.stored.store(Arc::new(Stored { _picker: picker }));
        Ok(of_view)
    }

    /// What stays the same record stays the same member; both sets are sorted by id.
    fn next_members(&self) -> Arc<[Member]> {
        let mut old = self.members.iter().peekable();
        let members = self.known.iter().map(|instance| {
            if let Some(member) = old.next_if(|member| Arc::ptr_eq(member.instance(), instance)) {
                return member.clone();
            }
            while old.next_if(|member| member.instance().id < instance.id).is_some() {}
            match old.next_if(|member| member.instance().id == instance.id) {
                Some(member) if Arc::ptr_eq(member.instance(), instance) => member.clone(),
                Some(member) => Member::new(Arc::clone(member.node()), Arc::clone(instance)),
                None => {
                    let node = fleet::node(instance, &self.peers, &self.attachment);
                    Member::new(node, Arc::clone(instance))
                }
            }
        });
        members.collect()
    }
}
