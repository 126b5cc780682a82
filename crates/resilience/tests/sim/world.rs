//! Time and chance of a simulation: both come from here alone, so a seed replays its run exactly.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use tokio::time::Instant;

pub(crate) const US: u64 = 1;
pub(crate) const MS: u64 = 1_000 * US;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// splitmix64.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // Scrambled: the state grows by a constant, so neighbouring states are one stream, some draws apart.
        Self(scrambled(seed ^ 0x6a09_e667_f3bc_c909))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scrambled(self.0)
    }

    /// Uniform in 0..1, never 0.
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + (self.unit() * (high - low) as f64) as u64
    }

    /// The gap to the next arrival of a Poisson process.
    pub(crate) fn gap(&mut self, per_second: f64) -> u64 {
        (-self.unit().ln() / per_second * SECOND as f64) as u64
    }
}

/// The finisher of splitmix64.
fn scrambled(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What is to happen, in microseconds since the start; of one moment in the order it was planned.
pub(crate) struct Plan<E> {
    start: Instant,
    order: u64,
    events: BinaryHeap<Reverse<(u64, u64, Ordered<E>)>>,
}

/// An event; the heap orders by time alone.
struct Ordered<E>(E);

impl<E> PartialEq for Ordered<E> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<E> Eq for Ordered<E> {}
impl<E> PartialOrd for Ordered<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Ordered<E> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<E> Plan<E> {
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), order: 0, events: BinaryHeap::new() }
    }

    pub(crate) fn at(&mut self, when: u64, event: E) {
        self.order += 1;
        self.events.push(Reverse((when, self.order, Ordered(event))));
    }

    /// The next event and its time.
    pub(crate) fn next(&mut self) -> Option<(u64, E)> {
        self.events.pop().map(|Reverse((when, _, event))| (when, event.0))
    }

    pub(crate) fn instant(&self, when: u64) -> Instant {
        self.start + Duration::from_micros(when)
    }
}

/// The `q` quantile of `values`; 0 of none.
pub(crate) fn quantile(values: &mut [u64], q: f64) -> u64 {
    if values.is_empty() {
        return 0;
    }
    let place = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len()) - 1;
    *values.select_nth_unstable(place).1
}
