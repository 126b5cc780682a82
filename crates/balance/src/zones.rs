//! Which part of a caller's calls goes to which zone.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::{Member, Now};

/// How often the capacities are counted anew, in nanoseconds; for more than a thousand members in proportion
/// less often.
const COUNT_EVERY: u64 = 100_000_000;

/// One zone that has members.
pub(crate) struct Share {
    /// The part of all calls that comes from it.
    demand: f64,
    /// Whether it is the caller's own.
    is_own: bool,
    /// What its members can take, as the bits of an `f64`.
    capacity: AtomicU64,
    /// The parts of a caller's calls that go to it and those before it, of 2³².
    sum: AtomicU32,
}

impl Share {
    pub(crate) fn new(demand: f64, is_own: bool) -> Self {
        Self { demand, is_own, capacity: AtomicU64::new(0), sum: AtomicU32::new(0) }
    }

    fn capacity(&self) -> f64 {
        f64::from_bits(self.capacity.load(Relaxed))
    }
}

/// All of them, renewed now and then by a pick.
pub(crate) struct Shares {
    zones: Box<[Share]>,
    due: AtomicU64,
    /// The part of all calls that comes from the caller's own zone; not 0.
    own_demand: f64,
    max_skew: f64,
}

impl Shares {
    pub(crate) fn new(zones: Box<[Share]>, own_demand: f64, max_skew: f64) -> Self {
        Self { zones, due: AtomicU64::new(0), own_demand: own_demand.max(f64::MIN_POSITIVE), max_skew }
    }

    /// The zone that these bits fall to.
    pub(crate) fn draw(&self, bits: u32) -> usize {
        let last = self.zones.len() - 1;
        self.zones[..last].iter().position(|zone| bits < zone.sum.load(Relaxed)).unwrap_or(last)
    }

    /// The caller's own zone, if it has members.
    pub(crate) fn own(&self) -> Option<usize> {
        self.zones.iter().position(|zone| zone.is_own)
    }

    /// Counts the capacities if that is due. `members` are those of each zone, `count` the number of all.
    pub(crate) fn renew<'a>(&self, members: impl Iterator<Item = &'a [Member]>, count: usize, now: Now) {
        let due = self.due.load(Relaxed);
        if now.as_nanos() < due {
            return;
        }
        let next = now.as_nanos().saturating_add(COUNT_EVERY * (count as u64 / 1000).max(1));
        if self.due.compare_exchange(due, next, Relaxed, Relaxed).is_err() {
            return;
        }
        let mut all = 0.0;
        for (zone, members) in self.zones.iter().zip(members) {
            let capacity = capacity(members, now);
            zone.capacity.store(capacity.to_bits(), Relaxed);
            all += capacity;
        }
        self.divide(all.max(f64::MIN_POSITIVE));
    }

    /// Divides the calls, where the zones can take `all` together.
    fn divide(&self, all: f64) {
        // What a zone keeps of the calls that come from it, and what it then has left for others.
        let kept = |zone: &Share, demand: f64| demand.min(self.max_skew * zone.capacity() / all);
        let room = |zone: &Share| (zone.capacity() / all - kept(zone, zone.demand)).max(0.0);
        let stays = self.own().map_or(0.0, |own| kept(&self.zones[own], self.own_demand) / self.own_demand);
        let others = || self.zones.iter().filter(|zone| !zone.is_own);
        let rooms: f64 = others().map(room).sum();
        let capacities: f64 = others().map(Share::capacity).sum();
        let mut sum = 0.0;
        for zone in &self.zones {
            sum += match zone.is_own {
                true => stays,
                false if rooms > 0.0 => (1.0 - stays) * room(zone) / rooms,
                false if capacities > 0.0 => (1.0 - stays) * zone.capacity() / capacities,
                false => 0.0,
            };
            zone.sum.store((sum * f64::from(u32::MAX)) as u32, Relaxed);
        }
    }
}

/// The weights of those that are connected and healthy, each by its slow start.
fn capacity(members: &[Member], now: Now) -> f64 {
    let panicking = members.first().is_some_and(|member| member.node().peers().is_panicking());
    let counts = |member: &&Member| {
        let node = member.node();
        node.is_ready() && (panicking || !node.is_ejected())
    };
    let weight = |member: &Member| f64::from(member.weight().max(1)) * member.node().share(now);
    members.iter().filter(counts).map(weight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parts of the calls of the first zone's callers.
    fn divided(max_skew: f64, zones: &[(f64, f64)]) -> Vec<f64> {
        let shares = zones.iter().enumerate().map(|(at, (capacity, demand))| {
            let share = Share::new(*demand, at == 0);
            share.capacity.store(capacity.to_bits(), Relaxed);
            share
        });
        let shares = Shares::new(shares.collect(), zones[0].1, max_skew);
        shares.divide(zones.iter().map(|(capacity, _)| capacity).sum::<f64>().max(f64::MIN_POSITIVE));
        let mut before = 0.0;
        let part = |zone: &Share| {
            let sum = f64::from(zone.sum.load(Relaxed)) / f64::from(u32::MAX);
            sum - std::mem::replace(&mut before, sum)
        };
        shares.zones.iter().map(part).collect()
    }

    fn assert_divided(max_skew: f64, zones: &[(f64, f64)], expected: &[f64]) {
        let parts = divided(max_skew, zones);
        let close = parts.iter().zip(expected).all(|(part, expected)| (part - expected).abs() < 1e-6);
        assert!(close, "{zones:?}: {parts:?}");
    }

    #[test]
    fn a_zone_keeps_what_it_can_carry() {
        assert_divided(1.0, &[(10.0, 0.5), (10.0, 0.5)], &[1.0, 0.0]);
        assert_divided(1.0, &[(5.0, 0.5), (15.0, 0.5)], &[0.5, 0.5]);
        assert_divided(1.0, &[(20.0, 0.8), (80.0, 0.2)], &[0.25, 0.75]);
        assert_divided(1.2, &[(20.0, 0.8), (80.0, 0.2)], &[0.3, 0.7]);
        // To those that have room beside their own callers, in proportion to it.
        assert_divided(1.0, &[(0.0, 0.5), (20.0, 0.25), (60.0, 0.25)], &[0.0, 0.0, 1.0]);
    }

    #[test]
    fn there_is_no_cliff_on_the_way_down_to_nothing() {
        let parts: Vec<f64> =
            (0..=100).map(|left| divided(1.0, &[(f64::from(left), 0.5), (100.0, 0.5)])[0]).collect();
        let steps = parts.windows(2).map(|pair| pair[1] - pair[0]);
        assert_eq!((parts[0], parts[100]), (0.0, 1.0));
        assert!(steps.clone().all(|step| (0.0..0.03).contains(&step)), "{parts:?}");
    }

    #[test]
    fn nothing_and_callers_unheard_of_are_no_trouble() {
        assert_divided(1.05, &[(0.0, 0.5), (0.0, 0.5)], &[0.0, 0.0]);
        assert_divided(1.05, &[(1.0, 0.0), (9.0, 1.0)], &[1.0, 0.0]);
        assert_divided(1.05, &[(0.0, 0.0), (9.0, 1.0)], &[0.0, 1.0]);
    }
}
