//! The one with the fewest calls in flight, of a few.

use std::sync::Arc;

use crate::{
    Member, Pick, Picked, Picker, Policy,
    draw::Urn,
    pair::{self, Load},
};

/// Of some members drawn by weight, the one with the fewest calls in flight for its weight.
///
/// For calls that last long or very differently (uploads, streams, long polls), where the number of calls says
/// more of a node than how fast it answered. [`P2c`](crate::P2c) sees a slow node sooner: a node that answers
/// slowly gathers calls, one that fails fast does not, and only ejection keeps them away from it.
///
/// Envoy's `LEAST_REQUEST` and gRPC A48 (`least_request_experimental`); weights count as in Envoy's with an
/// `active_request_bias` of 1.
///
/// ```
/// # use std::sync::Arc;
/// # use meshwork_balance::{LeastRequest, Policy};
/// let policy: Arc<dyn Policy> = Arc::new(LeastRequest::default().choices(3));
/// ```
#[derive(Clone, Debug)]
pub struct LeastRequest {
    choices: usize,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self { choices: 2 }
    }
}

impl LeastRequest {
    /// Of how many drawn members the best is taken, 2 to 16. Default 2: more find the idlest one sooner, and all
    /// clients the same one.
    pub fn choices(mut self, choices: usize) -> Self {
        self.choices = choices.clamp(2, 16);
        self
    }
}

impl Policy for LeastRequest {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        Box::new(Lightest { urn: Urn::new(members), choices: self.choices })
    }
}

struct Lightest {
    urn: Urn,
    choices: usize,
}

impl Picker for Lightest {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        if let Some(answer) = self.urn.pool().without_choice(pick) {
            return answer;
        }
        let panicking = self.urn.pool().is_panicking();
        pair::pick(&self.urn, pick, panicking, |pick, first, second| {
            let now = pick.now;
            let lighter = |best: &'a Member, other: &'a Member| {
                let load = |member| (member, Load::of(member, now));
                if pair::second_is_lighter(load(best), load(other)) { other } else { best }
            };
            let mut best = lighter(first, second);
            for _ in 2..self.choices {
                if let Some(another) = pair::draw(&self.urn, pick, panicking) {
                    best = lighter(best, another);
                }
            }
            best
        })
    }
}
