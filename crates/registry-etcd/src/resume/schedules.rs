//! Random schedules over a scripted store: whatever is cut, wiped, compacted or late, what is applied
//! while the follower is live equals the store at the revision it claims.

use std::collections::BTreeMap;

use super::{Follower, Input, Order};
use crate::record::{Entry, Event, Listing};

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }
}

type State = BTreeMap<Vec<u8>, (i64, i64)>;

/// One life of a store: its history from revision 2 on, one revision per element.
#[derive(Default)]
struct Store {
    history: Vec<Vec<Event>>,
    compacted: i64,
}

impl Store {
    fn revision(&self) -> i64 {
        self.history.len() as i64 + 1
    }

    fn at(&self, revision: i64) -> State {
        let mut state = State::new();
        for event in self.history.iter().flatten().take_while(|event| event.revision() <= revision) {
            apply(&mut state, event);
        }
        state
    }

    fn list(&self) -> Listing {
        let revision = self.revision();
        let entry = |(key, (at, lease))| Entry { key, value: Vec::new(), lease, revision: at };
        Listing { revision, entries: self.at(revision).into_iter().map(entry).collect() }
    }

    fn write(&mut self, dice: &mut Dice) {
        let revision = self.revision() + 1;
        let count = if dice.below(8) == 0 { 0 } else { 1 + dice.below(2) };
        // An empty revision is somebody else's, under another prefix.
        let first = dice.below(4);
        let event = |n| {
            let key = vec![b'a' + ((first + n) % 4) as u8];
            let standing = self.at(revision - 1).contains_key(&key);
            match dice.below(4) {
                0 if standing => Event::Removed { key, revision },
                1 => Event::Put(Entry { key, value: Vec::new(), lease: 0, revision }),
                _ => {
                    Event::Put(Entry { key, value: Vec::new(), lease: dice.below(1 << 62) as i64, revision })
                }
            }
        };
        let events = (0..count).map(event).collect();
        self.history.push(events);
    }
}

fn apply(state: &mut State, event: &Event) {
    match event {
        Event::Put(entry) => state.insert(entry.key.clone(), (entry.revision, entry.lease)),
        Event::Removed { key, .. } => state.remove(key),
    };
}

/// A follower, the watch it has, and what it applied.
struct World {
    store: Store,
    follower: Follower,
    /// Whether the watch that was ordered is one from now on; whether a list was ordered.
    from_now: bool,
    list: bool,
    applied: State,
    /// The next revision that the watch shows; `None` = it is cut.
    watch: Option<i64>,
    created: bool,
    /// A list or an audit that was read and has not arrived.
    listed: Option<Listing>,
    audited: Option<Listing>,
    auditing: bool,
}

impl World {
    fn new() -> Self {
        let (follower, orders) = Follower::start();
        let mut world = Self {
            store: Store::default(),
            follower,
            from_now: false,
            list: false,
            applied: State::new(),
            watch: None,
            created: false,
            listed: None,
            audited: None,
            auditing: false,
        };
        world.obey(orders);
        world
    }

    fn obey(&mut self, orders: Vec<Order>) {
        for order in orders {
            match order {
                Order::Watch { from } => {
                    (self.created, self.listed, self.list) = (false, None, false);
                    (self.from_now, self.auditing, self.audited) = (from == 0, false, None);
                    // The server takes a watch from the future in silence.
                    self.watch = Some(if from == 0 { self.store.revision() + 1 } else { from });
                }
                Order::List => self.list = true,
                Order::Replace(listing) => {
                    let entry = |e: Entry| (e.key, (e.revision, e.lease));
                    self.applied = listing.entries.into_iter().map(entry).collect();
                }
                Order::Apply(events) => events.iter().for_each(|event| apply(&mut self.applied, event)),
                Order::Distrust => panic!("the watch missed nothing"),
            }
        }
    }

    fn step(&mut self, input: Input) {
        let orders = self.follower.step(input);
        self.obey(orders);
    }

    fn cut(&mut self) {
        self.watch = None;
        self.step(Input::Cut);
    }

    /// One thing that may happen; `calm` = nothing changes any more.
    fn happen(&mut self, dice: &mut Dice, calm: bool) {
        match dice.below(if calm { 7 } else { 12 }) {
            0 if self.watch.is_some() && !self.created => {
                self.created = true;
                // A watch from now on begins when the server takes it.
                if self.from_now {
                    self.watch = Some(self.store.revision() + 1);
                }
                self.step(Input::Created { revision: self.store.revision() });
            }
            1 if self.list => {
                self.list = false;
                self.listed = Some(self.store.list());
            }
            2 => {
                if let Some(listing) = self.listed.take() {
                    self.step(Input::Listed(listing));
                }
            }
            3 | 4 if self.created && !self.is_listing() => self.show(dice),
            5 if self.created
                && !self.is_listing()
                && self.watch.is_some_and(|next| next == self.store.revision() + 1) =>
            {
                self.step(Input::Progress { revision: self.store.revision() });
            }
            6 => self.audit(dice),
            7..=9 => self.store.write(dice),
            10 => match dice.below(3) {
                0 => self.store.compacted = self.store.revision(),
                1 => self.cut(),
                _ => {
                    self.store = Store::default();
                    for _ in 0..dice.below(12) {
                        self.store.write(dice);
                    }
                    self.cut();
                }
            },
            _ => {}
        }
    }

    /// While a list is ordered nothing of the watch is handed in.
    fn is_listing(&self) -> bool {
        self.list || self.listed.is_some()
    }

    /// The watch shows some revisions, or that they are compacted.
    fn show(&mut self, dice: &mut Dice) {
        let Some(next) = self.watch else { return };
        if next <= self.store.compacted && next <= self.store.revision() {
            self.watch = None;
            return self.step(Input::Compacted);
        }
        let until = (next + dice.below(3) as i64).min(self.store.revision());
        let shown = self.store.history.iter().flatten();
        let shown: Vec<_> = shown.filter(|e| (next..=until).contains(&e.revision())).cloned().collect();
        self.watch = Some(next.max(until + 1));
        if !shown.is_empty() {
            self.step(Input::Events(shown));
        }
    }

    fn audit(&mut self, dice: &mut Dice) {
        match (self.auditing, self.audited.take()) {
            (false, _) if self.follower.is_live() => {
                self.auditing = true;
                self.step(Input::Auditing);
                if dice.below(2) == 0 {
                    self.audited = Some(self.store.list());
                }
            }
            (true, Some(listing)) => {
                self.auditing = false;
                self.step(Input::Audited(listing));
            }
            (true, None) => self.audited = Some(self.store.list()),
            (false, _) => {}
        }
    }

    fn check(&self, seed: u64) {
        if self.follower.is_live() {
            let revision = self.follower.revision;
            assert!(revision <= self.store.revision(), "seed {seed}: ahead of the store");
            assert_eq!(self.applied, self.store.at(revision), "seed {seed}: at revision {revision}");
        }
    }
}

#[test]
fn whatever_happens_a_live_view_is_the_truth_of_its_revision_and_in_calm_of_the_newest() {
    for seed in 0..2_000 {
        let (mut dice, mut world) = (Dice(seed), World::new());
        for _ in 0..80 {
            world.happen(&mut dice, false);
            world.check(seed);
        }
        for _ in 0..120 {
            world.happen(&mut dice, true);
            world.check(seed);
        }
        assert!(world.follower.is_live(), "seed {seed}: not live in calm");
        assert_eq!(world.applied, world.store.at(world.store.revision()), "seed {seed}: in calm");
    }
}
