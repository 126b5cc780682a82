//! Which members get calls, and drawing one of them in proportion to its weight.

use std::sync::Arc;

use crate::Member;

/// The places of the members that get new calls, or `None` when all do: those that are `up` and have a weight,
/// or, when none has one, all that are `up`. And whether they differ in weight.
pub(crate) fn candidates(members: &[Member]) -> (Option<Box<[u32]>>, bool) {
    // One pass tells what most snapshots are: all up, all of one weight.
    let mut all_open = true;
    let (mut least, mut most) = (u16::MAX, 0);
    for member in members {
        if member.takes_calls() {
            least = least.min(member.weight());
            most = most.max(member.weight());
        } else {
            all_open = false;
        }
    }
    if all_open && (least > 0 || most == 0) {
        return (None, least < most);
    }
    let gets_calls = |member: &Member| member.takes_calls() && (member.weight() > 0 || most == 0);
    let places = members.iter().zip(0u32..).filter(|(member, _)| gets_calls(member)).map(|(_, place)| place);
    (Some(places.collect()), least < most)
}

/// The members that get calls, with a table from which one is drawn in constant time.
pub(crate) struct Urn {
    members: Arc<[Member]>,
    places: Option<Box<[u32]>>,
    /// Absent when all weigh the same.
    alias: Option<Box<[Alias]>>,
}

/// A column of Walker's alias table (Vose 1991): below `keep` the column itself, above it `other`.
#[derive(Clone, Copy)]
struct Alias {
    keep: u32,
    other: u32,
}

impl Urn {
    pub(crate) fn new(members: Arc<[Member]>) -> Self {
        let (places, differ) = candidates(&members);
        let mut urn = Self { members, places, alias: None };
        if differ && urn.len() > 1 {
            urn.alias = Some(alias_table((0..urn.len()).map(|at| urn.get(at).weight())));
        }
        urn
    }

    /// All members, also those that get no new calls.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many get calls.
    pub(crate) fn len(&self) -> usize {
        self.places.as_ref().map_or(self.members.len(), |places| places.len())
    }

    /// The one at `at`, which is below [`len`](Self::len).
    pub(crate) fn get(&self, at: usize) -> &Member {
        &self.members[self.places.as_ref().map_or(at, |places| places[at] as usize)]
    }

    /// Draws a place with 64 random bits. Must not be empty.
    pub(crate) fn draw(&self, bits: u64) -> usize {
        let at = below(bits >> 32, self.len());
        match &self.alias {
            Some(alias) if bits as u32 > alias[at].keep => alias[at].other as usize,
            _ => at,
        }
    }
}

/// Maps 32 random bits to `0..len`.
pub(crate) fn below(bits: u64, len: usize) -> usize {
    (((bits & 0xffff_ffff) * len as u64) >> 32) as usize
}

fn alias_table(weights: impl ExactSizeIterator<Item = u16>) -> Box<[Alias]> {
    let len = weights.len();
    let mut scaled: Vec<f64> = weights.map(f64::from).collect();
    let mean = scaled.iter().sum::<f64>() / len as f64;
    scaled.iter_mut().for_each(|weight| *weight /= mean);
    let mut table = vec![Alias { keep: u32::MAX, other: 0 }; len];
    let (mut small, mut large): (Vec<usize>, Vec<usize>) = (0..len).partition(|at| scaled[*at] < 1.0);
    while let (Some(low), Some(&high)) = (small.pop(), large.last()) {
        table[low] = Alias { keep: (scaled[low] * f64::from(u32::MAX)) as u32, other: high as u32 };
        scaled[high] -= 1.0 - scaled[low];
        if scaled[high] < 1.0 {
            large.pop();
            small.push(high);
        }
    }
    table.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alias_table_draws_in_proportion() {
        let weights = [1u16, 300, 65_535, 7_000, 300];
        let table = alias_table(weights.into_iter());
        let mut drawn = [0.0f64; 5];
        for (at, column) in table.iter().enumerate() {
            let keep = (f64::from(column.keep) + 1.0) / 2f64.powi(32);
            drawn[at] += keep / 5.0;
            drawn[column.other as usize] += (1.0 - keep) / 5.0;
        }
        let all: f64 = weights.iter().copied().map(f64::from).sum();
        for (weight, drawn) in weights.iter().zip(drawn) {
            assert!((drawn - f64::from(*weight) / all).abs() < 1e-6, "{weight}: {drawn}");
        }
    }
}
