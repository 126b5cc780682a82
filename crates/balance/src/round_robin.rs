//! One after the other, skipping what cannot take a call.

use std::sync::Arc;

use crate::{Member, Pick, Picked, Picker, Policy, Pool, turns::Turns};

/// So many turns are tried before all members are searched.
const TRIES: usize = 64;

/// Each member in its turn, whatever its weight (but for weight 0), load and latency. Ejected nodes are skipped,
/// those in their slow start get fewer turns.
///
/// For equal calls to equal nodes, and where the next node must be foreseeable; [`P2c`](crate::P2c) is better for
/// all else: a frozen node gets 1/N of all calls until connection or outcomes tell. The order starts anew, at a
/// member of chance, with each snapshot. gRPC's `round_robin`.
///
/// ```
/// # use std::sync::Arc;
/// # use meshwork_balance::{Policy, RoundRobin};
/// let policy: Arc<dyn Policy> = Arc::new(RoundRobin::default());
/// ```
#[derive(Clone, Debug, Default)]
pub struct RoundRobin(());

struct InTurn {
    pool: Pool,
    turns: Turns,
}

impl Policy for RoundRobin {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        Box::new(InTurn { pool: Pool::new(members), turns: Turns::default() })
    }
}

impl Picker for InTurn {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        self.turns.begin(pick.random);
        let len = self.pool.len();
        self.pool.take(pick, (0..len.min(TRIES)).map(|_| (self.turns.next() % len as u64) as usize))
    }
}
