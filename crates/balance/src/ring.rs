//! A ring of points, some per member, on which a hash finds its member.

use crate::chance::scramble;

/// The most points of a ring. Beyond it each member has half as many: a ring is made anew at each change.
const POINTS_AT_MOST: u64 = 1 << 18;

/// A member has more than half of this and at most this many points on average.
const POINTS_PER_MEMBER: u64 = 128;

/// A bucket of the index holds so many points on average.
const POINTS_PER_BUCKET: usize = 4;

const POINT_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// Where a member stands on the ring, and who it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Point {
    hash: u32,
    place: u32,
}

/// Points in the order of their hashes, with an index that finds the first one at or after a hash in constant
/// time on average.
///
/// A member's points depend on its own key and weight alone, as long as the mean weight stays between one power
/// of two and the next (the default weight is well inside): who comes or goes takes and leaves only what is its
/// own.
pub(crate) struct Ring {
    points: Box<[Point]>,
    /// The first point of each bucket, and the number of points.
    starts: Box<[u32]>,
    /// How far a hash is shifted to give its bucket.
    shift: u32,
}

impl Ring {
    /// `members`: the hash and the weight of each.
    pub(crate) fn new(members: impl ExactSizeIterator<Item = (u64, u16)> + Clone) -> Self {
        let scale = Scale::of(members.clone().map(|(_, weight)| weight));
        let total: usize = members.clone().map(|(_, weight)| scale.points(weight) as usize).sum();
        let buckets = (total / POINTS_PER_BUCKET).max(2).next_power_of_two();
        let shift = 32 - buckets.trailing_zeros();
        let points = || {
            members.clone().zip(0u32..).flat_map(move |((key, weight), place)| {
                (0..scale.points(weight)).map(move |number| {
                    let hash = scramble(key.wrapping_add(number.wrapping_mul(POINT_STEP)));
                    Point { hash: (hash >> 32) as u32, place }
                })
            })
        };
        // Counting sort by bucket: the hashes are even, so it takes a time linear in their number.
        let mut starts = vec![0u32; buckets + 1];
        points().for_each(|point| starts[(point.hash >> shift) as usize + 1] += 1);
        (0..buckets).for_each(|bucket| starts[bucket + 1] += starts[bucket]);
        let mut free = starts.clone();
        let mut sorted = vec![Point::default(); total];
        for point in points() {
            let next = &mut free[(point.hash >> shift) as usize];
            sorted[*next as usize] = point;
            *next += 1;
        }
        for bucket in starts.windows(2) {
            sorted[bucket[0] as usize..bucket[1] as usize].sort_unstable();
        }
        Self { points: sorted.into(), starts: starts.into(), shift }
    }

    /// The places of the points from `hash` on, once around.
    pub(crate) fn from(&self, hash: u32) -> impl Iterator<Item = usize> + Clone {
        let bucket = (hash >> self.shift) as usize;
        let (from, to) = (self.starts[bucket] as usize, self.starts[bucket + 1] as usize);
        let start = from + self.points[from..to].iter().take_while(|point| point.hash < hash).count();
        let (before, after) = self.points.split_at(start);
        after.iter().chain(before).map(|point| point.place as usize)
    }
}

/// How many points a weight makes: the weight times a power of two.
#[derive(Clone, Copy)]
enum Scale {
    Times(u32),
    Over(u32),
}

impl Scale {
    fn of(weights: impl ExactSizeIterator<Item = u16>) -> Self {
        let most = (weights.len() as u64 * POINTS_PER_MEMBER).clamp(1, POINTS_AT_MOST);
        // Members without a weight are here only when none has one; then each counts as 1.
        let sum = weights.map(|weight| u64::from(weight.max(1))).sum::<u64>().max(1);
        if sum <= most {
            Self::Times((most / sum).ilog2())
        } else {
            Self::Over(sum.div_ceil(most).next_power_of_two().ilog2())
        }
    }

    fn points(self, weight: u16) -> u64 {
        let weight = u64::from(weight.max(1));
        match self {
            Self::Times(doublings) => weight << doublings,
            Self::Over(halvings) => (weight >> halvings).max(1),
        }
    }
}
