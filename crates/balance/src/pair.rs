//! Two candidates drawn by weight, of which a policy takes the better one.
//!
//! Power of two choices (Mitzenmacher 2001): what the default policy and the one of fewest requests share. The
//! rules of who is a candidate are those of [`pool`](crate::pool).

use crate::{
    Member, Now, Pick, Picked, Resort,
    chance::{below, scramble},
    draw::Urn,
    standing::{Rest, Standing},
    ticket::Admission,
};

/// So many draws look for two candidates before all members are searched.
const DRAWS: usize = 12;

/// In larger sets the search ends at the first two found; in smaller ones it is fair among all.
const FAIR_SEARCH: usize = 1024;

/// What a search for two came to.
enum Found<'a> {
    Probe(&'a Member),
    Two(&'a Member, &'a Member),
    One(&'a Member),
    /// Ejected, being tried or to be avoided, but nothing else can take the call.
    LastResort(&'a Member),
    None,
}

/// Takes the better of two, or what there is instead. `better` is given the first and the second one drawn.
#[inline]
pub(crate) fn pick<'a>(
    urn: &'a Urn,
    pick: &mut Pick<'_>,
    panicking: bool,
    mut better: impl FnMut(&mut Pick<'_>, &'a Member, &'a Member) -> &'a Member,
) -> Picked<'a> {
    // A candidate may be taken by another thread between the look and the step; then look again.
    for _ in 0..3 {
        let admission = if panicking { Admission::Any } else { Admission::Strict };
        let (chosen, admission) = match find(urn, pick, panicking) {
            Found::Probe(member) => (member, Admission::Strict),
            Found::Two(first, second) => (better(pick, first, second), admission),
            Found::One(member) => (member, admission),
            Found::LastResort(member) => (member, Admission::Any),
            Found::None => return Picked::Wait,
        };
        if let Some(ticket) = chosen.node().begin_with(pick.now, admission) {
            return Picked::Take(chosen, ticket);
        }
    }
    let last = pick.resort == Resort::Any;
    let anyone = if last { urn.pool().anyone(pick.now, (pick.random)() >> 32) } else { None };
    anyone.map_or(Picked::Wait, |(member, ticket)| Picked::Take(member, ticket))
}

/// What a member carries, and the weight that counts.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    pub(crate) calls: f64,
    pub(crate) weight: f64,
}

impl Load {
    #[inline]
    pub(crate) fn of(member: &Member, now: Now) -> Self {
        let node = member.node();
        let weight = f64::from(member.weight().max(1)) * node.share(now);
        Self { calls: f64::from(node.inflight()), weight }
    }
}

/// Whether `second` has the lower load by weight. Of two idle ones that weigh the same, the one not tried for
/// longer; at equal load else `first`. (Among busy ones that would favour the one that is kept away from because
/// it is slow.)
#[inline]
pub(crate) fn second_is_lighter((first, a): (&Member, Load), (second, b): (&Member, Load)) -> bool {
    if a.calls + b.calls == 0.0 && a.weight == b.weight {
        return second.node().latency.begun() < first.node().latency.begun();
    }
    // Both before and after taking the call, else an idle light node would never get one beside an idle heavy one.
    (b.calls + 1.0) * a.weight < (a.calls + 1.0) * b.weight && b.calls * a.weight < a.calls * b.weight
}

/// A candidate by one draw; `None` when the one drawn is none, or is spared in its slow start.
pub(crate) fn draw<'a>(urn: &'a Urn, pick: &mut Pick<'_>, panicking: bool) -> Option<&'a Member> {
    match drawn(urn, pick, panicking) {
        (at, Some(Standing::Candidate)) => Some(urn.get(at)),
        _ => None,
    }
}

/// One draw: the place, and its standing unless it is to be passed over.
#[inline]
fn drawn(urn: &Urn, pick: &mut Pick<'_>, panicking: bool) -> (usize, Option<Standing>) {
    let bits = (pick.random)();
    let at = urn.draw(bits);
    let node = urn.get(at).node();
    let standing = Standing::of(node, pick.now, panicking);
    let is_wanted = match standing {
        Standing::Candidate => {
            let share = node.share(pick.now);
            share >= 1.0 || scramble(bits) as f64 <= share * u64::MAX as f64
        }
        Standing::ProbeDue => true,
        _ => false,
    };
    (at, (is_wanted && !pick.avoid.contains(node.key())).then_some(standing))
}

/// Two distinct candidates, drawn by weight. The first one drawn wins a tie, which makes shares
/// proportional to weights whatever the number of nodes.
#[inline]
fn find<'a>(urn: &'a Urn, pick: &mut Pick<'_>, panicking: bool) -> Found<'a> {
    let mut first = None;
    for _ in 0..DRAWS {
        match drawn(urn, pick, panicking) {
            (at, Some(Standing::ProbeDue)) => return Found::Probe(urn.get(at)),
            (at, Some(_)) if first.is_none() => first = Some(at),
            (at, Some(_)) if first != Some(at) => {
                return Found::Two(urn.get(first.expect("invariant: drawn before")), urn.get(at));
            }
            _ => {}
        }
        if urn.len() == 1 {
            break;
        }
    }
    search(urn, pick, panicking, first)
}

/// Looks at all members, because drawing did not find two candidates.
fn search<'a>(urn: &'a Urn, pick: &mut Pick<'_>, panicking: bool, first: Option<usize>) -> Found<'a> {
    let len = urn.len();
    let mut bits = (pick.random)();
    let start = below(bits >> 32, len);
    let mut found = [first, None];
    let mut seen = 0u64;
    let mut rest = Rest::default();
    for at in (start..len).chain(0..start) {
        if first == Some(at) {
            continue;
        }
        let node = urn.get(at).node();
        let standing = Standing::of(node, pick.now, panicking);
        let avoided = pick.avoid.contains(node.key());
        if avoided || !matches!(standing, Standing::Candidate | Standing::ProbeDue) {
            rest.note(at, node, standing, avoided);
            continue;
        }
        if standing == Standing::ProbeDue {
            return Found::Probe(urn.get(at));
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
        [Some(a), Some(b)] => Found::Two(urn.get(a), urn.get(b)),
        [Some(a), None] | [None, Some(a)] => Found::One(urn.get(a)),
        [None, None] => {
            let last = rest.choose(pick, |at| urn.get(at).node());
            last.map_or(Found::None, |at| Found::LastResort(urn.get(at)))
        }
    }
}
