//! One after the other, each as often as its weight says, evenly spread.

use std::sync::Arc;

use crate::{Member, Pick, Picked, Picker, Policy, Pool, turns::Turns};

/// So many turns are tried before all members are searched.
const TRIES: usize = 64;

/// The fraction of a slot that has a turn in every round.
const FULL: u32 = u32::MAX;

/// Each member in its turn, in proportion to its weight, with its turns as far apart as they can be.
///
/// For nodes of known, different sizes and equal calls. It does not look at load or latency: where nodes slow
/// down, [`P2c`](crate::P2c) with the same weights is better. A change of weights counts from the next snapshot
/// on. For equal weights it is [`RoundRobin`](crate::RoundRobin).
///
/// The static stride scheduler of gRPC A58 (`weighted_round_robin`; there the weights come from load reports,
/// here from the records), with one change: a member above the mean weight has several places in the round, so
/// that a turn is found within two looks on average, whatever the weights; A58 caps them instead.
///
/// ```
/// # use std::sync::Arc;
/// # use meshwork_balance::{Policy, WeightedRoundRobin};
/// let policy: Arc<dyn Policy> = Arc::new(WeightedRoundRobin::default());
/// ```
#[derive(Clone, Debug, Default)]
pub struct WeightedRoundRobin(());

impl Policy for WeightedRoundRobin {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        let pool = Pool::new(members);
        let slots = if pool.weights_differ() {
            slots(pool.iter().map(|member| u64::from(member.weight())))
        } else {
            (0..pool.len() as u32).map(|place| Slot { place, fraction: FULL }).collect()
        };
        Box::new(Strides { pool, slots, turns: Turns::default() })
    }
}

struct Strides {
    pool: Pool,
    slots: Box<[Slot]>,
    turns: Turns,
}

/// One place in the round.
#[derive(Clone, Copy)]
struct Slot {
    place: u32,
    /// In which part of all rounds it has its turn.
    fraction: u32,
}

impl Slot {
    /// Whether it has a turn in this round: in `fraction` of all, as evenly as whole numbers allow. The slots
    /// begin at different phases, so that they do not all skip at once.
    fn has_turn(self, at: usize, round: u64) -> bool {
        let phase = (at as u64).wrapping_mul(0x9e37_79b9);
        let passed = round.wrapping_mul(u64::from(self.fraction)).wrapping_add(phase) as u32;
        self.fraction == FULL || passed < self.fraction
    }
}

/// At most two slots per member on average; each has a turn in half of all rounds, on average, or in more.
fn slots(weights: impl ExactSizeIterator<Item = u64> + Clone) -> Box<[Slot]> {
    let len = weights.len() as u64;
    let mean = (weights.clone().sum::<u64>() / len.max(1)).max(1);
    let parts = |weight: u64| weight.div_ceil(mean);
    let largest =
        weights.clone().map(|weight| weight as f64 / parts(weight).max(1) as f64).fold(0.0, f64::max);
    let count: u64 = weights.clone().map(parts).sum();
    let mut order: Vec<(u32, Slot)> = Vec::with_capacity(count as usize);
    for (weight, place) in weights.zip(0u32..) {
        let parts = parts(weight);
        let part = weight as f64 / parts.max(1) as f64;
        let fraction = (part / largest * 2f64.powi(32)).min(f64::from(FULL)) as u32;
        for part in 0..parts {
            // A member's places are spread over the whole round; each begins elsewhere.
            let at = (u64::from(place) << 32) / len + (part << 32) / parts;
            order.push((at as u32, Slot { place, fraction }));
        }
    }
    order.sort_unstable_by_key(|(at, slot)| (*at, slot.place));
    order.into_iter().map(|(_, slot)| slot).collect()
}

impl Strides {
    /// The place of the next turn.
    fn next(&self) -> usize {
        let slots = self.slots.len() as u64;
        loop {
            let turn = self.turns.next();
            let at = (turn % slots) as usize;
            if self.slots[at].has_turn(at, turn / slots) {
                return self.slots[at].place as usize;
            }
        }
    }
}

impl Picker for Strides {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        self.turns.begin(pick.random);
        self.pool.take(pick, (0..self.pool.len().min(TRIES)).map(|_| self.next()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_found_in_about_two_looks_whatever_the_weights() {
        let giant = (0..10_000).map(|at| if at == 77 { 65_535 } else { 1 }).collect::<Vec<u64>>();
        let half = (0..1_000).map(|at| if at % 2 == 0 { 65_535 } else { 1 }).collect();
        let ramp = (1..=1_000).collect();
        for weights in [vec![1], vec![1, 1], vec![3, 2], vec![1, 65_535], giant, half, ramp] {
            let slots = slots(weights.iter().copied());
            assert!(slots.len() <= 3 * weights.len(), "{} slots", slots.len());
            let looks = 20 * slots.len();
            let turns = (0..looks).filter(|look| {
                let at = look % slots.len();
                slots[at].has_turn(at, (look / slots.len()) as u64)
            });
            let looks_per_turn = looks as f64 / turns.count() as f64;
            assert!(looks_per_turn <= 2.2, "{} weights: {looks_per_turn}", weights.len());
        }
    }
}
