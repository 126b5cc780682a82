//! Every policy, plain and over one another, and one of a user's own.

use std::sync::Arc;

use meshwork_balance::{
    First, LeastRequest, Member, P2c, Pick, Picked, Picker, Policy, Pool, RingHash, RoundRobin, Subset,
    Subsets, WeightedRoundRobin, ZoneAware,
};

pub(crate) fn all() -> Vec<(&'static str, Arc<dyn Policy>)> {
    let canary = || Subset::named("canary").deployment("canary").share(0.5);
    // As configuration has it, which does not know the type.
    let shared: Arc<dyn Policy> = Arc::new(RoundRobin::default());
    vec![
        ("p2c", Arc::new(P2c::default())),
        ("round robin", Arc::new(RoundRobin::default())),
        ("weighted round robin", Arc::new(WeightedRoundRobin::default())),
        ("least request", Arc::new(LeastRequest::default())),
        ("least request of five", Arc::new(LeastRequest::default().choices(5))),
        ("ring hash", Arc::new(RingHash::default())),
        ("first", Arc::new(First::default())),
        ("zones over p2c", Arc::new(ZoneAware::new("a", P2c::default()))),
        ("zones over round robin", Arc::new(ZoneAware::new("a", shared))),
        ("subsets over ring hash", Arc::new(Subsets::of(RingHash::default()).with(canary()))),
        ("subsets over zones", Arc::new(Subsets::of(ZoneAware::new("a", P2c::default())).with(canary()))),
        ("one of a user's own", Arc::new(ByChance)),
    ]
}

/// Any member by chance: what a user might write.
struct ByChance;

struct Drawn(Pool);

impl Policy for ByChance {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        Box::new(Drawn(Pool::new(members)))
    }
}

impl Picker for Drawn {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        let bits = (pick.random)() >> 8;
        self.0.take(pick, (!self.0.is_empty()).then(|| bits as usize % self.0.len()))
    }
}
