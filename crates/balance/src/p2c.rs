//! The better of two: the default policy.
//!
//! Connection state comes first, then health, then cost: latency × (in flight + 1) / weight, where alike
//! latencies count as equal. What makes it even for equal nodes (band, floor, drift) is in
//! [`latency`](crate::latency).

use std::sync::{Arc, atomic::Ordering::Relaxed};

use crate::{
    Member, Now, Peers, Pick, Picked, Picker, Policy,
    chance::{below, scramble},
    draw::Urn,
    latency::alike,
    node::UNHEALTHY,
    pair::{self, Load},
};

/// The median is that of all nodes, or of so many drawn ones.
const MEDIAN_OF: usize = 33;

/// Power of two choices over latency, load, weight and health. The default, and the right one for nearly all
/// clients: it keeps away from nodes that are slow, frozen or failing within a few calls, and is even for equal
/// nodes.
///
/// M. Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing* (2001); the latency is a time-weighted
/// mean as in Finagle's `P2CEWMA`, but no peak.
///
/// ```
/// # use std::sync::Arc;
/// # use meshwork_balance::{P2c, Policy};
/// let policy: Arc<dyn Policy> = Arc::new(P2c::default());
/// ```
#[derive(Clone, Debug, Default)]
pub struct P2c(());

impl Policy for P2c {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        let peers = members.first().map(|member| Arc::clone(member.node().peers()));
        Box::new(BetterOfTwo { peers, urn: Urn::new(members) })
    }
}

struct BetterOfTwo {
    /// Absent only when there is no member.
    peers: Option<Arc<Peers>>,
    urn: Urn,
}

impl Picker for BetterOfTwo {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        if let Some(answer) = self.urn.pool().without_choice(pick) {
            return answer;
        }
        let peers = self.peers.as_deref().expect("invariant: a pool that is not empty has a member");
        if peers.median_is_due(pick.now, self.urn.len()) {
            self.renew_median(peers, (pick.random)());
        }
        pair::pick(&self.urn, pick, peers.is_panicking(), |pick, first, second| {
            better(first, second, pick.now, peers)
        })
    }
}

impl BetterOfTwo {
    /// The median of what answers: a node whose newest verdict is a failure carries a penalty that says
    /// nothing about how long its peers take.
    fn renew_median(&self, peers: &Peers, seed: u64) {
        let len = self.urn.len();
        let mut means = [0.0; MEDIAN_OF];
        let mut count = 0;
        for step in 0..len.min(MEDIAN_OF) {
            let drawn = || below(scramble(seed.wrapping_add(step as u64)), len);
            let node = self.urn.get(if len <= MEDIAN_OF { step } else { drawn() }).node();
            if node.is_ready()
                && node.consecutive.load(Relaxed) == 0
                && let Some(mean) = node.latency.mean()
            {
                means[count] = mean;
                count += 1;
            }
        }
        if count > 0 {
            let (_, median, _) = means[..count].select_nth_unstable_by((count - 1) / 2, f64::total_cmp);
            peers.set_median(*median);
        }
    }
}

/// The cheaper one; of two with alike latencies the lighter one.
#[inline]
fn better<'a>(first: &'a Member, second: &'a Member, now: Now, peers: &Peers) -> &'a Member {
    let median = peers.median_nanos();
    let judged = |member: &Member| {
        let load = Load::of(member, now);
        (load, member.node().latency.judged(now, load.calls > 0.0, median))
    };
    let ((a, first_latency), (b, second_latency)) = (judged(first), judged(second));
    let second_is_better = match (first_latency, second_latency) {
        (Some(c), Some(d)) if !alike(c, d) => {
            let fails = |member: &Member| member.node().state.load(Relaxed) & UNHEALTHY != 0;
            match (fails(first), fails(second)) {
                // However many calls wait at the other one: one that fails is idle because it does no work.
                (true, false) => true,
                (false, true) => false,
                _ => d * (b.calls + 1.0) / b.weight < c * (a.calls + 1.0) / a.weight,
            }
        }
        _ => pair::second_is_lighter((first, a), (second, b)),
    };
    if second_is_better { second } else { first }
}
