//! The own zone first, as far as it can carry its callers.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    Hint, Member, Pick, Picked, Picker, Policy, Pool,
    chance::scramble,
    parts,
    zones::{Share, Shares},
};

/// Else the keys that stay in a zone would all be in one part of its ring.
const SALT: u64 = 0x7a6f_6e65;

/// Keeps calls in the caller's zone as long as no node there gets more than its share; what is too much goes to
/// the zones that have room. Inside a zone another policy chooses.
///
/// For services and callers in several zones, where crossing costs money or time. The part of all calls that a
/// zone can take is its part of the capacity: the weights of its connected, healthy nodes, each by its slow
/// start. So a zone that is small, or loses nodes, hands over just what it cannot carry: there is no size below
/// which all changes at once, and no node in a small zone drowns. While the cluster panics all connected nodes
/// count. A call that no member of its zone can take well is offered to the other zones.
///
/// The rule is that of Envoy's zone-aware routing, without its minimal cluster size, with a limit of skew as
/// Kubernetes' topology hints and Linkerd's HAZL have one. As there, the clients must know how their own kind is
/// spread over the zones ([`callers`](Self::callers)); unless told, each zone is taken to call as much as
/// another.
///
/// ```
/// # use std::sync::Arc;
/// # use meshwork_balance::{P2c, Policy, ZoneAware};
/// let policy: Arc<dyn Policy> =
///     Arc::new(ZoneAware::new("zone1", P2c::default()).callers([("zone1", 8), ("zone2", 2)]));
/// ```
#[derive(Clone)]
pub struct ZoneAware {
    inner: Arc<dyn Policy>,
    zone: Arc<str>,
    callers: Option<BTreeMap<Arc<str>, u32>>,
    max_skew: f64,
}

impl ZoneAware {
    /// For a caller in `zone`; when that is empty (unknown), zones do not matter.
    pub fn new(zone: impl Into<Arc<str>>, inner: impl Policy) -> Self {
        Self { inner: Arc::new(inner), zone: zone.into(), callers: None, max_skew: 1.05 }
    }

    /// How many instances of the caller's own service each zone has, or any other measure of how much the zones
    /// call. Default: all the same.
    pub fn callers<Z: Into<Arc<str>>>(mut self, callers: impl IntoIterator<Item = (Z, u32)>) -> Self {
        self.callers = Some(callers.into_iter().map(|(zone, count)| (zone.into(), count)).collect());
        self
    }

    /// How many times the mean load a node may get for the sake of staying in the zone, 1 to 1000. Default 1.05:
    /// zones that differ by chance alone keep their calls.
    pub fn max_skew(mut self, skew: f64) -> Self {
        self.max_skew = if skew.is_nan() { 1.0 } else { skew.clamp(1.0, 1000.0) };
        self
    }

    /// The part of all calls that comes from `zone`, of so many `zones` in sight.
    fn demand(&self, zone: &str, zones: usize) -> f64 {
        let Some(callers) = &self.callers else { return 1.0 / zones as f64 };
        let all: f64 = callers.values().copied().map(f64::from).sum();
        let here = callers.get(zone).copied().map_or(0.0, f64::from);
        if all > 0.0 { here / all } else { 0.0 }
    }
}

impl fmt::Debug for ZoneAware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZoneAware")
            .field("zone", &self.zone)
            .field("callers", &self.callers)
            .field("max_skew", &self.max_skew)
            .finish_non_exhaustive()
    }
}

impl Policy for ZoneAware {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        let pool = Pool::new(Arc::clone(&members));
        let mut zones: BTreeMap<Arc<str>, Vec<Member>> = BTreeMap::new();
        for member in pool.iter() {
            zones.entry(Arc::clone(&member.instance().zone)).or_default().push(member.clone());
        }
        let alone = zones.len() == 1 && zones.contains_key(&self.zone);
        if self.zone.is_empty() || zones.is_empty() || alone {
            return self.inner.picker(members);
        }
        let count = zones.len() + usize::from(!zones.contains_key(&self.zone));
        let share = |zone: &Arc<str>| Share::new(self.demand(zone, count), *zone == self.zone);
        let shares = zones.keys().map(share).collect();
        let shares = Shares::new(shares, self.demand(&self.zone, count), self.max_skew);
        let zones = zones.into_values().map(|members| {
            let members: Arc<[Member]> = members.into();
            Zone { picker: self.inner.picker(Arc::clone(&members)), members }
        });
        Box::new(ByZone { pool, zones: zones.collect(), shares })
    }
}

struct ByZone {
    pool: Pool,
    zones: Box<[Zone]>,
    shares: Shares,
}

struct Zone {
    picker: Box<dyn Picker>,
    members: Arc<[Member]>,
}

impl Picker for ByZone {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        if let Some(answer) = self.pool.without_choice(pick) {
            return answer;
        }
        self.shares.renew(self.zones.iter().map(|zone| &*zone.members), self.pool.len(), pick.now);
        let bits = match pick.hint {
            Hint::Hash(hash) => scramble(hash.wrapping_add(SALT)),
            _ => (pick.random)(),
        };
        // The zone that it falls to, the caller's own, the others.
        let chosen = self.shares.draw((bits >> 32) as u32);
        let own = self.shares.own().filter(|own| *own != chosen);
        let others = (chosen + 1..self.zones.len()).chain(0..chosen).filter(|at| Some(*at) != own);
        let order = std::iter::once(chosen).chain(own).chain(others);
        parts::ask(order.map(|at| &*self.zones[at].picker), pick)
    }
}
