//! Calls with the same hash meet the same member.

use std::sync::Arc;

use crate::{
    Hint, Member, Pick, Picked, Picker, Policy, Pool,
    bound::Bound,
    chance::{below, scramble},
    ring::Ring,
};

/// So many points are looked at before all members are.
const LOOKS: usize = 64;

/// Calls with the same [`Hint::Hash`] go to the same member, unless that one has too many of them.
///
/// For nodes that keep something per key: caches, sessions, shards. Who comes or goes moves only the keys that
/// are or were its own, and keys move to a new node one by one over its slow start. Calls without a hash go to
/// any member by weight. A member that can take no call, or has more than [`bound`](Self::bound) times the mean
/// number of calls in flight, hands on to the next on the ring.
///
/// A ring of points in proportion to the weight (about 100 per member, fewer beyond 2 600 members; D. Karger et al., *Consistent Hashing and
/// Random Trees*, 1997; gRPC A42; Envoy's `RING_HASH`) rather than a Maglev table, which moves a few per cent of
/// the other keys too; with bounded loads (Mirrokni et al. 2016). Nodes stand on the ring by their addresses, so
/// all clients agree.
///
/// ```
/// # use std::sync::Arc;
/// # use meshwork_balance::{Policy, RingHash};
/// let policy: Arc<dyn Policy> = Arc::new(RingHash::default().bound(1.5));
/// ```
#[derive(Clone, Debug)]
pub struct RingHash {
    bound: f64,
}

impl Default for RingHash {
    fn default() -> Self {
        Self { bound: 1.25 }
    }
}

impl RingHash {
    /// How many times the mean number of calls in flight, by weight, a member may have, 1.05 and up; infinity
    /// turns the bound off. Default 1.25. A member may always have four.
    pub fn bound(mut self, factor: f64) -> Self {
        self.bound = factor.max(1.05);
        self
    }
}

impl Policy for RingHash {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        let pool = Pool::new(members);
        let ring = Ring::new(pool.iter().map(|member| (member.node().key().hash_bits(), member.weight())));
        Box::new(OnTheRing { pool, ring, bound: Bound::new(self.bound) })
    }
}

struct OnTheRing {
    pool: Pool,
    ring: Ring,
    bound: Bound,
}

impl Picker for OnTheRing {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        let hash = match pick.hint {
            Hint::Hash(hash) => scramble(hash),
            _ => (pick.random)(),
        };
        self.bound.renew(&self.pool, pick.now, pick.random);
        let near = self.ring.from((hash >> 32) as u32).take(LOOKS);
        let len = self.pool.len();
        let start = below(hash, len);
        let all = (start..len).chain(0..start);
        // Only when everyone has too many (the mean is a little old) is the bound left aside.
        let with_room = near.clone().chain(all).filter(|at| self.bound.has_room(self.pool.get(*at)));
        self.pool.take(pick, with_room.chain(near))
    }
}
