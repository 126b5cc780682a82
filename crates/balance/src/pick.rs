//! The contract between the client and a balancing policy.

use std::{fmt, net::SocketAddr, sync::Arc};

use meshwork_core::InstanceId;

use crate::{
    Member, NodeKey, Now, Ticket,
    chance::{FNV, fnv},
};

/// What a call asks of the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Hint<'a> {
    /// Nothing: any member.
    #[default]
    Any,
    /// Calls with the same hash should meet the same member. Policies that do not hash treat it as `Any`.
    Hash(u64),
    /// Only this instance, whatever its weight and health.
    Instance(&'a InstanceId),
    /// Only the node with this literal address, whatever its weight and health.
    Addr(SocketAddr),
}

/// Which members may be chosen when none is as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Resort {
    /// None.
    None,
    /// Those that are ejected or being tried for the first time, but none that the call has tried.
    Untried,
    /// Also those that the call has tried.
    #[default]
    Any,
}

/// The name of a subset, as calls carry it: a hash, so that a rule is compared and not looked up.
///
/// ```
/// # use meshwork_balance::SubsetId;
/// const CANARY: SubsetId = SubsetId::of("canary");
/// assert_eq!(CANARY, SubsetId::of("canary"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubsetId(u64);

impl SubsetId {
    /// Of this name; the same in every process.
    pub const fn of(name: &str) -> Self {
        Self(fnv(FNV, name.as_bytes()))
    }

    pub(crate) const fn bits(self) -> u64 {
        self.0
    }
}

/// One choice to be made.
#[non_exhaustive]
pub struct Pick<'a> {
    /// What the call asks for.
    pub hint: Hint<'a>,
    /// The time.
    pub now: Now,
    /// Uniform random bits.
    pub random: &'a mut dyn FnMut() -> u64,
    /// Nodes that this call has already tried. They are chosen again only when no other node can take the
    /// call; a caller that needs another one compares the key of what it gets.
    pub avoid: &'a [NodeKey],
    /// The subset the call asks for, by [`Subsets`](crate::Subsets); other policies do not look at it.
    pub subset: Option<SubsetId>,
    /// Whom to choose when there is nobody better; [`Resort::Any`] unless a policy that divides the members asks
    /// each part for its better ones first. A picker that has only worse ones answers [`Picked::Wait`].
    pub resort: Resort,
}

impl<'a> Pick<'a> {
    /// Any member, nothing to avoid.
    pub fn new(now: Now, random: &'a mut dyn FnMut() -> u64) -> Self {
        Self { hint: Hint::Any, now, random, avoid: &[], subset: None, resort: Resort::Any }
    }

    /// With a hint.
    pub fn hint(mut self, hint: Hint<'a>) -> Self {
        self.hint = hint;
        self
    }

    /// With nodes to avoid.
    pub fn avoid(mut self, avoid: &'a [NodeKey]) -> Self {
        self.avoid = avoid;
        self
    }

    /// From a subset.
    pub fn subset(mut self, subset: Option<SubsetId>) -> Self {
        self.subset = subset;
        self
    }
}

impl fmt::Debug for Pick<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pick")
            .field("hint", &self.hint)
            .field("now", &self.now)
            .field("avoid", &self.avoid)
            .field("subset", &self.subset)
            .field("resort", &self.resort)
            .finish_non_exhaustive()
    }
}

/// What a picker answers.
#[derive(Debug)]
#[must_use]
pub enum Picked<'a> {
    /// This member; the ticket already counts the call.
    Take(&'a Member, Ticket),
    /// Not now: no member is connected, all that are connected are full, or a fresh client's only connected
    /// node is being tried for the first time. Pick again when a node becomes ready or gets room, **and in any
    /// case after 5 ms** (a first answer wakes nobody), up to the call's deadline.
    Wait,
    /// There is nothing that waiting for connections could mend.
    Nothing(Reason),
}

/// Why there is nothing to pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// No member takes new calls.
    Empty,
    /// All members are ejected. The policies here use ejected nodes before they answer this.
    AllEjected,
    /// The policy sheds the call.
    Overloaded,
    /// The call is pinned to an instance or address that is not here, or that takes no new calls.
    NoSuchInstance,
    /// The call asks for a subset that has no member and no [`Fallback`](crate::Fallback).
    EmptySubset,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "no instance takes new calls",
            Self::AllEjected => "all instances are ejected",
            Self::Overloaded => "all instances are overloaded",
            Self::NoSuchInstance => "the instance that the call is pinned to is not here",
            Self::EmptySubset => "no instance belongs to the subset that the call asks for",
        })
    }
}

/// A way to balance: makes the picker of each snapshot.
///
/// The policies here are [`P2c`](crate::P2c) (the default), [`LeastRequest`](crate::LeastRequest),
/// [`RoundRobin`](crate::RoundRobin), [`WeightedRoundRobin`](crate::WeightedRoundRobin),
/// [`RingHash`](crate::RingHash) and [`First`](crate::First); [`ZoneAware`](crate::ZoneAware) and
/// [`Subsets`](crate::Subsets) divide the members and ask another policy inside each part. One of your own is best
/// made over a [`Pool`](crate::Pool), where there is an example: the pool keeps the rules that hold for all.
pub trait Policy: Send + Sync + 'static {
    /// A picker over `members`, which are nodes of one cluster (they share their [`Peers`](crate::Peers)).
    /// Called once per snapshot and subset; may allocate.
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker>;
}

impl<P: Policy + ?Sized> Policy for Arc<P> {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        (**self).picker(members)
    }
}

/// Chooses a member for each call. Called on the hot path: no lock, no allocation.
pub trait Picker: Send + Sync + 'static {
    /// Chooses, and counts the call on the chosen node in the same step.
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a>;
}

const _: fn(Box<dyn Policy>) = |_| {};
const _: fn(Box<dyn Picker>) = |_| {};
