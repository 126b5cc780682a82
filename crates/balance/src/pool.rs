//! The members that get calls, and the rules by which any policy takes one of them.
//!
//! Who is no candidate, who is probed, spared or avoided, and what is left when nobody is as they should be: all
//! of that is here and in [`standing`](crate::standing), so that a policy says no more than whom it would rather
//! have.

use std::{fmt, sync::Arc};

use crate::{
    Hint, Member, Now, Pick, Picked, Reason, Ticket,
    chance::{below, scramble},
    pinned,
    standing::{Rest, Standing},
    ticket::Admission,
};

/// So many older members are looked at in place of one in its slow start.
const ALTERNATIVES: usize = 4;

/// The members of one snapshot that get new calls: those that are `up` and have a weight, or, when none has a
/// weight, all that are `up`.
///
/// What a picker of one's own is made of: it says by [`take`](Self::take) whom it would rather have, and the
/// rules that hold for every policy (connection first, ejection and its probe, panic, slow start, one try at a
/// time for an unknown node, what the call has tried already, pinned calls) are kept here.
///
/// ```
/// use std::sync::Arc;
/// use meshwork_balance::{Member, Pick, Picked, Picker, Policy, Pool};
///
/// /// The member with the fewest calls in flight, of all.
/// struct Idlest;
///
/// struct ByLoad(Pool);
///
/// impl Policy for Idlest {
///     fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
///         Box::new(ByLoad(Pool::new(members)))
///     }
/// }
///
/// impl Picker for ByLoad {
///     fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
///         let inflight = |at: &usize| self.0.get(*at).node().inflight();
///         self.0.take(pick, (0..self.0.len()).min_by_key(inflight))
///     }
/// }
/// ```
pub struct Pool {
    members: Arc<[Member]>,
    /// The places of the members that get calls; `None` = all.
    places: Option<Box<[u32]>>,
    weights_differ: bool,
}

impl Pool {
    /// Of the members of a snapshot.
    pub fn new(members: Arc<[Member]>) -> Self {
        let (places, weights_differ) = candidates(&members);
        Self { members, places, weights_differ }
    }

    /// All members, also those that get no new calls.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// How many members get calls.
    pub fn len(&self) -> usize {
        self.places.as_ref().map_or(self.members.len(), |places| places.len())
    }

    /// Whether no member gets calls.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The member at `at`, in the order of the snapshot without those that get no calls.
    ///
    /// # Panics
    /// When `at` is not below [`len`](Self::len).
    pub fn get(&self, at: usize) -> &Member {
        &self.members[self.places.as_ref().map_or(at, |places| places[at] as usize)]
    }

    /// The members that get calls.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> + Clone {
        (0..self.len()).map(|at| self.get(at))
    }

    pub(crate) fn weights_differ(&self) -> bool {
        self.weights_differ
    }

    /// Takes the first of `order` that can take the call now; if none of them can, any other.
    ///
    /// `order` yields places below [`len`](Self::len), the most wanted first. It may be short; endless it must
    /// not be: all that it leaves out are looked at afterwards, from a place given by the call's hash or by
    /// chance. A member in its slow start is passed over, with a falling chance, for one that is further on;
    /// for calls with a hash this depends on the hash alone, so a key that has moved stays. Pinned calls are
    /// answered without looking at `order`.
    ///
    /// # Panics
    /// When `order` yields a place that is not below [`len`](Self::len).
    pub fn take<'a>(&'a self, pick: &mut Pick<'_>, order: impl IntoIterator<Item = usize>) -> Picked<'a> {
        self.take_or(pick, order, |_, bits| below(bits, self.len()))
    }

    /// The same; `instead` says who is looked at in place of a member in its slow start, given the number of the
    /// look, from 0, and 32 bits that are random or of the call's hash.
    pub(crate) fn take_or<'a>(
        &'a self,
        pick: &mut Pick<'_>,
        order: impl IntoIterator<Item = usize>,
        instead: impl Fn(usize, u64) -> usize,
    ) -> Picked<'a> {
        if let Some(answer) = self.without_choice(pick) {
            return answer;
        }
        let panicking = self.is_panicking();
        let mut walk = Walk { pool: self, panicking, rest: Rest::default(), pick, instead };
        if let Some((at, ticket)) = order.into_iter().find_map(|at| walk.look(at)) {
            return Picked::Take(self.get(at), ticket);
        }
        let start = below(walk.seed() >> 32, self.len());
        if let Some((at, ticket)) = (start..self.len()).chain(0..start).find_map(|at| walk.look(at)) {
            return Picked::Take(self.get(at), ticket);
        }
        match walk.last_resort() {
            Some((at, ticket)) => Picked::Take(self.get(at), ticket),
            None => Picked::Wait,
        }
    }

    /// The answer to a call that leaves no choice: pinned, or nobody is there.
    pub(crate) fn without_choice<'a>(&'a self, pick: &Pick<'_>) -> Option<Picked<'a>> {
        let pinned = pinned::pick(&self.members, pick);
        pinned.or_else(|| self.is_empty().then_some(Picked::Nothing(Reason::Empty)))
    }

    /// Whether all that is connected is to be used, healthy or not.
    pub(crate) fn is_panicking(&self) -> bool {
        self.members.first().is_some_and(|member| member.node().peers().is_panicking())
    }

    /// Any member with a connection and room, from a place given by 32 random bits.
    pub(crate) fn anyone(&self, now: Now, bits: u64) -> Option<(&Member, Ticket)> {
        let start = below(bits, self.len());
        (start..self.len()).chain(0..start).map(|at| self.get(at)).find_map(|member| {
            let ticket = member.node().begin_with(now, Admission::Any)?;
            Some((member, ticket))
        })
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("members", &self.members.len()).field("len", &self.len()).finish()
    }
}

/// One search through a pool.
struct Walk<'a, 'p, 'q, F> {
    pool: &'a Pool,
    pick: &'p mut Pick<'q>,
    panicking: bool,
    rest: Rest,
    instead: F,
}

impl<F: Fn(usize, u64) -> usize> Walk<'_, '_, '_, F> {
    /// Begins the call on the member at `at`, or on one that is preferred to it in its slow start.
    fn look(&mut self, at: usize) -> Option<(usize, Ticket)> {
        let node = self.pool.get(at).node();
        let standing = Standing::of(node, self.pick.now, self.panicking);
        let avoided = self.pick.avoid.contains(node.key());
        let taken = match standing {
            // Its probe is all that an ejected node gets: nothing is spared of it.
            Standing::ProbeDue if !avoided => self.begin(at, Admission::Strict),
            Standing::Candidate if !avoided => {
                let admission = if self.panicking { Admission::Any } else { Admission::Strict };
                let other = self.further_on(at).and_then(|other| self.begin(other, admission));
                other.or_else(|| self.begin(at, admission))
            }
            _ => None,
        };
        if taken.is_none() {
            self.rest.note(at, node, standing, avoided);
        }
        taken
    }

    fn begin(&self, at: usize, admission: Admission) -> Option<(usize, Ticket)> {
        let ticket = self.pool.get(at).node().begin_with(self.pick.now, admission)?;
        Some((at, ticket))
    }

    fn last_resort(self) -> Option<(usize, Ticket)> {
        let (pool, now) = (self.pool, self.pick.now);
        let at = self.rest.choose(self.pick, |at| pool.get(at).node())?;
        Some((at, pool.get(at).node().begin_with(now, Admission::Any)?))
    }

    /// A candidate further on in its slow start than the one at `at`, when that one is to be passed over.
    fn further_on(&mut self, at: usize) -> Option<usize> {
        let now = self.pick.now;
        let node = self.pool.get(at).node();
        let share = node.share(now);
        if share >= 1.0 {
            return None;
        }
        let bits = scramble(self.seed() ^ node.key().hash_bits());
        if (bits as f64) < share * u64::MAX as f64 {
            return None;
        }
        let other = |step| (self.instead)(step, scramble(bits.wrapping_add(step as u64 + 1)) >> 32);
        (0..ALTERNATIVES).map(other).find(|other| {
            let node = self.pool.get(*other).node();
            node.share(now) > share
                && Standing::of(node, now, self.panicking) == Standing::Candidate
                && !self.pick.avoid.contains(node.key())
        })
    }

    /// Bits that are the same for calls of the same hash, else chance.
    fn seed(&mut self) -> u64 {
        match self.pick.hint {
            Hint::Hash(hash) => scramble(hash),
            _ => (self.pick.random)(),
        }
    }
}

/// The places of the members that get new calls, or `None` when all do. And whether they differ in weight.
fn candidates(members: &[Member]) -> (Option<Box<[u32]>>, bool) {
    // One pass tells what most snapshots are: all up, all of one weight.
    let mut all_open = true;
    let (mut least, mut most) = (u16::MAX, 0);
    for member in members {
        if member.takes_calls() {
            least = least.min(member.weight());
            most = most.max(member.weight());
        } else {
            all_open = false;
        }
    }
    if all_open && (least > 0 || most == 0) {
        return (None, least < most);
    }
    let gets_calls = |member: &Member| member.takes_calls() && (member.weight() > 0 || most == 0);
    let places = members.iter().zip(0u32..).filter(|(member, _)| gets_calls(member)).map(|(_, place)| place);
    (Some(places.collect()), least < most)
}
