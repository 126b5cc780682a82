//! Figures of interleaved rounds: medians, quartiles, and how much the peer itself swings.

use std::fmt;

/// One figure per round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rounds(Vec<f64>);

/// A median with its quartiles.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) lower: f64,
    pub(crate) median: f64,
    pub(crate) upper: f64,
}

impl FromIterator<f64> for Rounds {
    fn from_iter<I: IntoIterator<Item = f64>>(figures: I) -> Self {
        Self(figures.into_iter().collect())
    }
}

impl Rounds {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// Round by round, this over `peer`.
    pub(crate) fn over(&self, peer: &Self) -> Self {
        Self(self.0.iter().zip(&peer.0).map(|(ours, theirs)| ours / theirs).collect())
    }

    /// The figure below which a part `q` of the rounds lies, interpolated.
    pub(crate) fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
        let place = q * last as f64;
        let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        low + (high - low) * place.fract()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn spread(&self) -> Spread {
        Spread { lower: self.quantile(0.25), median: self.median(), upper: self.quantile(0.75) }
    }
}

impl Spread {
    /// How far the quartiles lie apart, as a part of the median.
    pub(crate) fn swing(&self) -> f64 {
        (self.upper - self.lower) / self.median
    }

    /// The same the other way round: what was a cost is a yield.
    pub(crate) fn inverse(self) -> Self {
        Self { lower: 1.0 / self.upper, median: 1.0 / self.median, upper: 1.0 / self.lower }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} [{:.2}-{:.2}]", self.median, self.lower, self.upper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_are_interpolated() {
        let mut rounds = Rounds::default();
        [4.0, 1.0, 3.0, 2.0].into_iter().for_each(|figure| rounds.push(figure));
        assert_eq!(rounds.spread().to_string(), "2.50 [1.75-3.25]");
        assert_eq!(rounds.over(&rounds).median(), 1.0);
    }
}
