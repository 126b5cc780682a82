//! Virtual time: what is due, in order, and the randomness of a schedule.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use meshwork_registry::Dice;
use tokio::time::Instant;

pub(crate) struct Clock<T> {
    start: Instant,
    pub(crate) now: Instant,
    order: BinaryHeap<Reverse<(Instant, u64)>>,
    due: BTreeMap<u64, T>,
    count: u64,
    dice: Dice,
}

impl<T> Clock<T> {
    pub(crate) fn new(seed: u64) -> Self {
        let now = Instant::now();
        let (order, due) = (BinaryHeap::new(), BTreeMap::new());
        Self { start: now, now, order, due, count: 0, dice: Dice::new(Some(seed)) }
    }

    /// Since the start, for stories.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now.duration_since(self.start)
    }

    pub(crate) fn at(&mut self, at: Instant, what: T) {
        self.count += 1;
        self.order.push(Reverse((at.max(self.now), self.count)));
        self.due.insert(self.count, what);
    }

    pub(crate) fn after(&mut self, delay: Duration, what: T) {
        self.at(self.now + delay, what);
    }

    /// The next thing due; the time is its time then.
    pub(crate) fn next(&mut self) -> Option<T> {
        let Reverse((at, number)) = self.order.pop()?;
        self.now = at;
        self.due.remove(&number)
    }

    // === randomness ===

    /// One of `0..n`.
    pub(crate) fn draw(&mut self, n: u64) -> u64 {
        self.dice.roll() % n
    }

    /// Whether something of this probability in percent happens.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.draw(100) < percent
    }

    /// Between two times in milliseconds.
    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.draw(to - from))
    }
}
