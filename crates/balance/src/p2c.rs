//! The better of two: the default policy.
//!
//! Connection state comes first, then health, then cost: latency × (in flight + 1) / weight, where alike
//! latencies count as equal. Power of two choices: Mitzenmacher 2001; what makes it even for equal nodes (band,
//! floor, drift) is in [`latency`](crate::latency).

use std::sync::{Arc, atomic::Ordering::Relaxed};

use crate::{
    Member, Node, Now, Peers, Pick, Picked, Picker, Policy, Reason,
    draw::{Urn, below},
    health::scramble,
    latency::alike,
    node::{EJECTED, FULL, PROBED, READY},
    pinned,
    ticket::Admission,
};

/// So many draws look for two candidates before all members are searched.
const DRAWS: usize = 12;

/// In larger sets the search ends at the first two found; in smaller ones it is fair among all.
const FAIR_SEARCH: usize = 1024;

/// The median is that of all nodes, or of so many drawn ones.
const MEDIAN_OF: usize = 33;

/// For how long a fresh client lets the first try of its only connected node stand alone.
const FIRST_TRY_NANOS: u64 = 20_000_000;

/// Power of two choices over latency, load, weight and health. The default.
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

/// What a node is to a pick.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// It takes calls.
    Candidate,
    /// It is ejected and its probe is due: this call is it.
    ProbeDue,
    /// Nothing is known of it and its first call is out.
    BeingTried,
    /// It is ejected.
    Ejected,
    /// It has no usable connection.
    Unconnected,
    /// It takes no further call.
    Full,
}

impl Picker for BetterOfTwo {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        if let Some(answer) = pinned::pick(self.urn.members(), pick) {
            return answer;
        }
        let Some(peers) = self.peers.as_deref().filter(|_| self.urn.len() > 0) else {
            return Picked::Nothing(Reason::Empty);
        };
        if peers.median_is_due(pick.now) {
            self.renew_median(peers, (pick.random)());
        }
        let panicking = peers.is_panicking();
        // A candidate may be taken by another thread between the look and the step; then look again.
        for _ in 0..3 {
            let found = self.find(pick, panicking);
            let admission = if panicking { Admission::Any } else { Admission::Strict };
            let (chosen, admission) = match found {
                Found::Probe(member) => (member, Admission::Strict),
                Found::Two(first, second) => (better(first, second, pick.now, peers), admission),
                Found::One(member) => (member, admission),
                Found::LastResort(member) => (member, Admission::Any),
                Found::None => return Picked::Wait,
            };
            if let Some(ticket) = chosen.node().begin_with(pick.now, admission) {
                return Picked::Take(chosen, ticket);
            }
        }
        match self.last_resort(pick) {
            Some((member, ticket)) => Picked::Take(member, ticket),
            None => Picked::Wait,
        }
    }
}

enum Found<'a> {
    Probe(&'a Member),
    Two(&'a Member, &'a Member),
    One(&'a Member),
    /// Ejected, being tried or to be avoided, but nothing else can take the call.
    LastResort(&'a Member),
    None,
}

impl BetterOfTwo {
    /// Two distinct candidates, drawn by weight. The first one drawn wins a tie, which makes shares
    /// proportional to weights whatever the number of nodes.
    fn find<'a>(&'a self, pick: &mut Pick<'_>, panicking: bool) -> Found<'a> {
        let mut first = None;
        for _ in 0..DRAWS {
            let bits = (pick.random)();
            let at = self.urn.draw(bits);
            if first == Some(at) {
                if self.urn.len() == 1 {
                    break;
                }
                continue;
            }
            let member = self.urn.get(at);
            match standing(member.node(), pick.now, panicking) {
                Standing::Candidate => {}
                Standing::ProbeDue if !pick.avoid.contains(member.node().key()) => {
                    return Found::Probe(member);
                }
                _ => continue,
            }
            let share = member.node().share(pick.now);
            let spared = share < 1.0 && scramble(bits) as f64 > share * u64::MAX as f64;
            if spared || pick.avoid.contains(member.node().key()) {
                continue;
            }
            match first {
                None => first = Some(at),
                Some(first) => return Found::Two(self.urn.get(first), member),
            }
        }
        self.search(pick, panicking, first)
    }

    /// Looks at all members, because drawing did not find two candidates.
    fn search<'a>(&'a self, pick: &mut Pick<'_>, panicking: bool, first: Option<usize>) -> Found<'a> {
        let len = self.urn.len();
        let mut bits = (pick.random)();
        let start = below(bits >> 32, len);
        let mut found = [first, None];
        let mut seen = 0u64;
        let mut rest = Rest::default();
        for step in 0..len {
            let at = if start + step < len { start + step } else { start + step - len };
            if first == Some(at) {
                continue;
            }
            let member = self.urn.get(at);
            let standing = standing(member.node(), pick.now, panicking);
            let avoided = pick.avoid.contains(member.node().key());
            if avoided || !matches!(standing, Standing::Candidate | Standing::ProbeDue) {
                rest.note(at, member.node(), standing, avoided);
                continue;
            }
            if standing == Standing::ProbeDue {
                return Found::Probe(member);
            }
            seen += 1;
            match found {
                [None, _] => found[0] = Some(at),
                [_, None] => found[1] = Some(at),
                _ if len > FAIR_SEARCH => break,
                // Reservoir sampling: each candidate stays with the same chance.
                _ => {
                    bits = scramble(bits.wrapping_add(seen));
                    let places = if first.is_some() { 1 } else { 2 };
                    let drawn = below(bits, seen as usize);
                    if drawn < places {
                        found[2 - places + drawn] = Some(at);
                    }
                }
            }
        }
        if first.is_none() && bits & 1 == 1 {
            found.swap(0, 1);
        }
        match found {
            [Some(a), Some(b)] => Found::Two(self.urn.get(a), self.urn.get(b)),
            [Some(a), None] | [None, Some(a)] => Found::One(self.urn.get(a)),
            [None, None] => rest.choose(pick.now, |at| self.urn.get(at)),
        }
    }

    /// Anything with a connection and room, when three looks were not enough.
    fn last_resort<'a>(&'a self, pick: &mut Pick<'_>) -> Option<(&'a Member, crate::Ticket)> {
        let len = self.urn.len();
        let start = below((pick.random)(), len);
        (0..len).map(|step| self.urn.get((start + step) % len)).find_map(|member| {
            let ticket = member.node().begin_with(pick.now, Admission::Any)?;
            Some((member, ticket))
        })
    }

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

/// What a search met besides candidates.
#[derive(Default)]
struct Rest {
    tried: Option<(usize, u32)>,
    avoided: Option<usize>,
    ejected: Option<usize>,
    unconnected: bool,
}

impl Rest {
    fn note(&mut self, at: usize, node: &Node, standing: Standing, avoided: bool) {
        match standing {
            Standing::Unconnected => self.unconnected = true,
            Standing::Full => {}
            _ if avoided => self.avoided = Some(at),
            Standing::BeingTried => {
                let inflight = node.inflight();
                if self.tried.is_none_or(|(_, fewest)| inflight < fewest) {
                    self.tried = Some((at, inflight));
                }
            }
            Standing::Ejected | Standing::ProbeDue | Standing::Candidate => self.ejected = Some(at),
        }
    }

    fn choose<'a>(self, now: Now, get: impl Fn(usize) -> &'a Member) -> Found<'a> {
        if let Some((at, _)) = self.tried {
            let member = get(at);
            // A fresh client must not send all to the first that connected.
            let may_wait = self.unconnected && self.avoided.is_none() && self.ejected.is_none();
            if may_wait && member.node().latency.unanswered_for(now) < FIRST_TRY_NANOS {
                return Found::None;
            }
            return Found::LastResort(member);
        }
        match self.ejected.or(self.avoided) {
            Some(at) => Found::LastResort(get(at)),
            None => Found::None,
        }
    }
}

fn standing(node: &Node, now: Now, panicking: bool) -> Standing {
    let state = node.state.load(Relaxed);
    if state & READY == 0 {
        Standing::Unconnected
    } else if state & FULL != 0 || node.inflight() >= node.capacity() {
        Standing::Full
    } else if panicking {
        Standing::Candidate
    } else if state & EJECTED != 0 {
        if state & PROBED == 0 && node.probe_is_due(now) { Standing::ProbeDue } else { Standing::Ejected }
    } else if state & PROBED != 0 && node.latency.is_unknown() {
        Standing::BeingTried
    } else {
        Standing::Candidate
    }
}

/// The cheaper one. Of two idle ones that weigh the same, the one not tried for longer; at equal cost else `first`.
/// (Among busy ones that would favour the one that is kept away from because it is slow.)
fn better<'a>(first: &'a Member, second: &'a Member, now: Now, peers: &Peers) -> &'a Member {
    let median = peers.median_nanos();
    let load = |member: &Member| {
        let node = member.node();
        let inflight = node.inflight();
        let latency = node.latency.judged(now, inflight > 0, median);
        (f64::from(inflight), f64::from(member.weight().max(1)) * node.share(now), latency)
    };
    let (first_calls, first_weight, first_latency) = load(first);
    let (second_calls, second_weight, second_latency) = load(second);
    let second_is_better = match (first_latency, second_latency) {
        (Some(a), Some(b)) if !alike(a, b) => {
            b * (second_calls + 1.0) / second_weight < a * (first_calls + 1.0) / first_weight
        }
        _ if first_calls + second_calls == 0.0 && first_weight == second_weight => {
            second.node().latency.begun() < first.node().latency.begun()
        }
        // Alike: by load. Both before and after taking the call, else an idle light node would never get one
        // beside an idle heavy node.
        _ => {
            (second_calls + 1.0) * first_weight < (first_calls + 1.0) * second_weight
                && second_calls * first_weight < first_calls * second_weight
        }
    };
    if second_is_better { second } else { first }
}
