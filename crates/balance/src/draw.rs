//! Drawing one of the members that get calls, in proportion to its weight.

use std::sync::Arc;

use crate::{Member, Pool, chance::below};

/// A pool with a table from which a member is drawn in constant time.
pub(crate) struct Urn {
    pool: Pool,
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
        let pool = Pool::new(members);
        let alias = pool.weights_differ() && pool.len() > 1;
        let alias = alias.then(|| alias_table(pool.iter().map(Member::weight)));
        Self { pool, alias }
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// How many get calls.
    pub(crate) fn len(&self) -> usize {
        self.pool.len()
    }

    /// The one at `at`, which is below [`len`](Self::len).
    pub(crate) fn get(&self, at: usize) -> &Member {
        self.pool.get(at)
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
