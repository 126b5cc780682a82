//! Why a call finds an endpoint or none: how many instances are stopped at each step.

use std::fmt;

use meshwork_balance::Member;
use meshwork_core::Staleness;

use crate::{
    ConnectionState,
    flight::link_of,
    shared::{Shared, Store},
};

/// The instances of a service, each counted at the first step that keeps calls from it.
///
/// In this order: the registry, the filter (record, aperture, endpoints, what the call asks for), the connection,
/// the ejection, the connection's room. The same counts stand in errors and in
/// [`ClusterView`](crate::ClusterView).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Funnel {
    /// Whether the registry ever answered.
    pub answered: bool,
    /// Whether the registry cannot be asked now: what follows is as it was when it last could.
    pub stale: bool,
    /// Instances that the registry knows.
    pub known: usize,
    /// Of those: records that are `unready` or `leaving`.
    pub not_up: usize,
    /// Left to other clients by the [aperture](crate::ClientConfig::aperture).
    pub aside: usize,
    /// Without an endpoint of a scheme and address that may be called.
    pub unusable: usize,
    /// Of the unusable: those whose [addresses](crate::ClientConfig::addresses) may not be called.
    pub forbidden: usize,
    /// Records that name the address of another one.
    pub doubled: usize,
    /// Not what the call asks for: it is pinned to another.
    pub filtered: usize,
    /// Not of the subset that the call asks for and may not leave.
    pub outside: usize,
    /// Without a connection.
    pub unconnected: usize,
    /// Of the unconnected: those that said they are going away, or at whose address somebody else answers.
    pub gone: usize,
    /// Ejected for failing.
    pub ejected: usize,
    /// With as many calls as their connections take.
    pub full: usize,
    /// That can take a call.
    pub usable: usize,
}

/// The step at which the last instances were stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Missing {
    /// Nothing: there is an endpoint.
    Nothing,
    /// The registry did not answer, or knows no instance, or knew none when it could last be asked.
    Registry,
    /// No instance is up, this client's, may be called, and is what the call asks for.
    Filter,
    /// None is connected.
    Connection,
    /// All that are connected are ejected.
    Ejection,
    /// All that are connected are full.
    Room,
}

impl Missing {
    /// Lowercase, as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Registry => "registry",
            Self::Filter => "filter",
            Self::Connection => "connection",
            Self::Ejection => "ejection",
            Self::Room => "room",
        }
    }
}

/// What a call says of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// It may take the call.
    For,
    /// The call is pinned to another.
    Elsewhere,
    /// The call is for a subset that it is not of.
    OtherSubset,
}

impl Funnel {
    /// Counts. `asked`: what the call says of members.
    pub(crate) fn of(shared: &Shared, store: &Store, asked: impl Fn(&Member) -> Asked) -> Self {
        let tally = store.tally;
        let mut funnel = Self {
            answered: store.pending.is_none(),
            stale: matches!(shared.watch.latest().staleness(), Staleness::Stale { .. }),
            known: tally.known,
            not_up: tally.not_up,
            aside: tally.aside,
            unusable: tally.unusable,
            forbidden: tally.forbidden,
            ..Self::default()
        };
        let others = tally.not_up + tally.aside + tally.unusable + store.members.len();
        funnel.doubled = tally.known.saturating_sub(others);
        for member in store.members.iter() {
            let node = member.node();
            let asked = asked(member);
            let count = if !member.takes_calls() {
                &mut funnel.not_up
            } else if asked == Asked::Elsewhere {
                &mut funnel.filtered
            } else if asked == Asked::OtherSubset {
                &mut funnel.outside
            } else if !node.is_ready() {
                let state = link_of(node).state();
                funnel.gone +=
                    usize::from(matches!(state, ConnectionState::Another | ConnectionState::Draining));
                &mut funnel.unconnected
            } else if node.is_ejected() {
                &mut funnel.ejected
            } else if node.is_full() {
                &mut funnel.full
            } else {
                &mut funnel.usable
            };
            *count += 1;
        }
        funnel
    }

    /// The step at which the last instances were stopped.
    pub fn missing(&self) -> Missing {
        match self {
            Self { usable: 1.., .. } => Missing::Nothing,
            Self { answered: false, .. } | Self { known: 0, .. } => Missing::Registry,
            Self { full: 1.., .. } => Missing::Room,
            Self { ejected: 1.., .. } => Missing::Ejection,
            Self { unconnected: 1.., .. } => Missing::Connection,
            _ => Missing::Filter,
        }
    }
}

impl fmt::Display for Funnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.answered {
            return f.write_str("the registry has not answered");
        }
        let plural = if self.known == 1 { "" } else { "s" };
        let stale = if self.stale { " when the registry could last be asked" } else { "" };
        write!(f, "of {} instance{plural} known{stale}", self.known)?;
        let counts = [
            (self.not_up, "not up"),
            (self.aside, "left to other clients"),
            (self.unusable - self.forbidden, "without an endpoint that may be called"),
            (self.forbidden, "at addresses that may not be called"),
            (self.doubled, "at the address of another"),
            (self.filtered, "not asked for"),
            (self.outside, "of no such subset"),
            (self.unconnected - self.gone, "not connected"),
            (self.gone, "going away or somebody else"),
            (self.ejected, "ejected"),
            (self.full, "full"),
            (self.usable, "usable"),
        ];
        for (place, (count, what)) in counts.iter().filter(|(count, _)| *count > 0).enumerate() {
            write!(f, "{} {count} {what}", if place == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_step_that_stopped_the_last_instances_is_named_with_counts() {
        let answered = Funnel { answered: true, ..Funnel::default() };
        let missing = |funnel: Funnel| (funnel.missing().as_str(), funnel.to_string());
        assert_eq!(missing(Funnel::default()), ("registry", "the registry has not answered".into()));
        assert_eq!(missing(answered), ("registry", "of 0 instances known".into()));
        let filtered = Funnel { known: 1, not_up: 1, ..answered };
        assert_eq!(missing(filtered), ("filter", "of 1 instance known: 1 not up".into()));
        let kept = Funnel { known: 6, aside: 2, unusable: 3, forbidden: 1, outside: 1, ..answered };
        let words = "of 6 instances known: 2 left to other clients, 2 without an endpoint that may be called, \
                     1 at addresses that may not be called, 1 of no such subset";
        assert_eq!(missing(kept), ("filter", words.into()));
        let stale = Funnel { stale: true, ..answered };
        let words = "of 0 instances known when the registry could last be asked";
        assert_eq!(missing(stale), ("registry", words.into()));
        let mixed = Funnel { known: 5, not_up: 1, unconnected: 3, gone: 1, ejected: 1, ..answered };
        let words =
            "of 5 instances known: 1 not up, 2 not connected, 1 going away or somebody else, 1 ejected";
        assert_eq!(missing(mixed), ("ejection", words.into()));
        assert_eq!(Funnel { full: 1, ..mixed }.missing(), Missing::Room);
        assert_eq!(Funnel { usable: 1, ..mixed }.missing(), Missing::Nothing);
        assert_eq!(Funnel { ejected: 0, ..mixed }.missing(), Missing::Connection);
    }
}
