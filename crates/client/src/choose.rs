//! Choosing where an attempt goes, and waiting while there is nothing to choose from.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use meshwork_balance::{Fallback, Hint, Member, NodeKey, Outcome, Pick, Picked, Reason, Subset, SubsetId};
use meshwork_resilience::{chance, deadline::Deadline};
use tokio::time::{self, Instant};

use crate::{
    Attempt, CallError, CallErrorKind, CallOptions, Funnel,
    flight::{Flight, Unusable, link_of},
    funnel::Asked,
    rules::Ruled,
    shared::{Group, Kind, Pending, Shared, Store},
};

/// How often a waiting call looks again by itself: a first answer wakes nobody.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The same while no node is connected, when a change always wakes.
const LOOK_AGAIN_UNCONNECTED: Duration = Duration::from_millis(250);
/// A picked connection may be gone by then; so often another is picked at once.
const PICKS: usize = 4;

/// What a choice needs to know of its call.
pub(crate) struct Wish<'a> {
    pub(crate) kind: Kind,
    pub(crate) options: &'a CallOptions,
    pub(crate) deadline: &'a Deadline,
    pub(crate) rule: &'a Ruled,
    pub(crate) path: &'a str,
    /// Calls of one hash prefer one node.
    pub(crate) hash: Option<u64>,
    /// What the call's lane asks for.
    pub(crate) subset: Option<SubsetId>,
    /// Nodes to keep away from if another can take the call.
    pub(crate) avoid: &'a [NodeKey],
    /// Nodes that are no choice at all.
    pub(crate) refuse: &'a [NodeKey],
}

impl Wish<'_> {
    /// Whether a member is what the call asks for.
    fn asked(&self, member: &Member) -> Asked {
        let node = member.node();
        let is_pinned_to = match (&self.options.instance, self.options.addr) {
            (Some(id), _) => member.instance().id == *id || link_of(node).identity().as_ref() == Some(id),
            (None, Some(addr)) => node.key().has_addr(addr),
            // Who pins a call leaves no choice to its lane.
            (None, None) => match self.only() {
                Some(subset) if !subset.has(member.instance()) => return Asked::OtherSubset,
                _ => true,
            },
        };
        if is_pinned_to { Asked::For } else { Asked::Elsewhere }
    }

    /// The subset without which the call goes nowhere.
    fn only(&self) -> Option<&Subset> {
        self.rule.subset(self.subset).filter(|subset| subset.when_empty() == Fallback::Strict)
    }

    /// Whether a member may take the call.
    fn is_choice(&self, member: &Member) -> bool {
        member.takes_calls() && !self.refuse.contains(member.node().key()) && self.asked(member) == Asked::For
    }

    fn funnel(&self, shared: &Shared, store: &Store) -> Funnel {
        Funnel::of(shared, store, |member| self.asked(member))
    }
}

/// What one look came to.
enum Look {
    Taken(Flight),
    Wait,
    /// Waiting for connections does not help, but waiting for the registry might.
    Nothing(CallError),
}

/// A member that can take the call now; `None` when the call should [`wait`].
///
/// # Errors
/// As [`wait`].
pub(crate) fn at_once(
    shared: &Arc<Shared>,
    wish: &Wish<'_>,
    now: Instant,
) -> Result<Option<Flight>, CallError> {
    match look(shared, wish, now) {
        Look::Taken(flight) => Ok(Some(flight)),
        Look::Nothing(error) if wish.options.wait_for_ready != Some(true) => Err(error),
        Look::Wait | Look::Nothing(_) => Ok(None),
    }
}

/// One look, without waiting; for retries that have an answer to fall back on.
pub(crate) fn choose_now(shared: &Arc<Shared>, wish: &Wish<'_>) -> Option<Flight> {
    match look(shared, wish, Instant::now()) {
        Look::Taken(flight) => Some(flight),
        Look::Wait | Look::Nothing(_) => None,
    }
}

/// Whether a member besides `failed` and `last` takes such calls and is connected, or may be in a moment.
pub(crate) fn has_others(shared: &Shared, wish: &Wish<'_>, failed: &[NodeKey], last: &NodeKey) -> bool {
    let store = shared.group(wish.kind).store.load();
    store.members.iter().filter(|member| wish.is_choice(member)).any(|member| {
        let node = member.node();
        node.key() != last && !failed.contains(node.key()) && link_of(node).is_hopeful()
    })
}

fn look(shared: &Arc<Shared>, wish: &Wish<'_>, now: Instant) -> Look {
    let store = shared.group(wish.kind).store.load();
    if let Some(pending) = &store.pending {
        return match pending.is_hopeless() {
            true => Look::Nothing(unknown(shared, &store, wish, pending)),
            false => Look::Wait,
        };
    }
    let now = shared.clock.at(now);
    let pinned = wish.options.instance.as_ref();
    let hint = match (pinned, wish.options.addr, wish.hash) {
        (Some(id), _, _) => Hint::Instance(id),
        (None, Some(addr), _) => Hint::Addr(addr),
        (None, None, Some(hash)) => Hint::Hash(hash),
        (None, None, None) => Hint::Any,
    };
    let mut random = chance::bits;
    let picker = store.pickers.of(wish.rule, wish.path);
    for _ in 0..PICKS {
        let mut pick = Pick::new(now, &mut random).hint(hint).avoid(wish.avoid).subset(wish.subset);
        let ticket = match picker.pick(&mut pick) {
            Picked::Take(_, ticket) => ticket,
            Picked::Wait => return Look::Wait,
            Picked::Nothing(reason) => return Look::Nothing(nothing(shared, reason, &store, wish)),
        };
        if wish.refuse.contains(ticket.node().key()) {
            ticket.finish(now, Outcome::Neutral);
            return Look::Wait;
        }
        match Flight::begin(shared, wish.kind, ticket, pinned) {
            Ok(flight) => return Look::Taken(flight),
            Err(Unusable::Gone) => {}
            Err(Unusable::Another) => {
                return Look::Nothing(nothing(shared, Reason::NoSuchInstance, &store, wish));
            }
        }
    }
    Look::Wait
}

fn nothing(shared: &Shared, reason: Reason, store: &Store, wish: &Wish<'_>) -> CallError {
    let kind = match reason {
        Reason::AllEjected => CallErrorKind::Ejected,
        Reason::Overloaded => CallErrorKind::Overloaded,
        _ => CallErrorKind::NoInstance,
    };
    let pinned = match (&wish.options.instance, wish.options.addr) {
        (Some(id), _) => Some(id.to_string()),
        (None, Some(addr)) => Some(addr.to_string()),
        (None, None) => None,
    };
    let text = match (reason, pinned) {
        (Reason::NoSuchInstance, Some(pinned)) => {
            format!("`{pinned}`, which the call is pinned to, is not there")
        }
        (Reason::EmptySubset, _) => match wish.only() {
            Some(subset) => format!("no instance of the subset `{}` takes new calls", subset.name()),
            None => reason.to_string(),
        },
        _ => reason.to_string(),
    };
    CallError::new(kind, text).with_funnel(wish.funnel(shared, store))
}

/// Waits for a member until the deadline, or until every node failed a dial since the wait began.
///
/// # Errors
/// See [`CallErrorKind`]: no instance, nothing known, no connection, or the deadline.
///
/// # Cancel safety
/// Dropping the future gives everything back.
pub(crate) async fn wait(shared: &Arc<Shared>, wish: &Wish<'_>) -> Result<Flight, CallError> {
    let _counted = Waiting::begin(shared)?;
    let group = shared.group(wish.kind);
    let patient = wish.options.wait_for_ready == Some(true);
    let mut dials = Dials::default();
    dials.look(&group.store.load(), wish);
    loop {
        // The channel may have gone to rest just before the call came.
        shared.want(wish.kind);
        let mut changed = pin!(group.changed.notified());
        changed.as_mut().enable();
        match look(shared, wish, Instant::now()) {
            Look::Taken(flight) => return Ok(flight),
            Look::Nothing(error) if !patient => return Err(error),
            Look::Wait | Look::Nothing(_) => {}
        }
        if !patient && dials.look(&group.store.load(), wish) {
            return Err(unconnected(shared, &group.store.load(), wish));
        }
        if shared.is_closed() {
            return Err(CallError::new(CallErrorKind::Transport, "the channel is closed"));
        }
        let bound = wish.deadline.waiting();
        if bound.is_some_and(|bound| bound.at() <= Instant::now()) {
            return Err(passed(shared, wish, group));
        }
        let pause = if shared.is_connected() { LOOK_AGAIN } else { LOOK_AGAIN_UNCONNECTED };
        let look_again = Instant::now() + pause;
        let until = bound.map_or(look_again, |bound| bound.at().min(look_again));
        tokio::select! {
            () = changed => {}
            () = group.freed.notified() => {}
            () = time::sleep_until(until) => {}
        }
    }
}

/// Nothing is known of the service.
fn unknown(shared: &Shared, store: &Store, wish: &Wish<'_>, pending: &Pending) -> CallError {
    let error = CallError::new(CallErrorKind::RegistryUnavailable, "the registry has not answered yet")
        .with_funnel(wish.funnel(shared, store));
    match &pending.cause {
        Some(cause) => error.with_source(Arc::clone(cause)),
        None => error,
    }
}

/// The deadline passed while waiting: says for what.
fn passed(shared: &Shared, wish: &Wish<'_>, group: &Group) -> CallError {
    let store = group.store.load();
    if let Some(pending) = &store.pending {
        return unknown(shared, &store, wish, pending);
    }
    if store.members.is_empty() {
        return nothing(shared, Reason::Empty, &store, wish);
    }
    let what = if shared.is_connected() { "free connection" } else { "connection" };
    let error = match wish.deadline.waiting() {
        Some(bound) => {
            CallError::from(bound.passed(what, wish.rule.limits())).with_attempts(failures(&store, wish))
        }
        None => CallError::new(CallErrorKind::Deadline, format!("no {what} in time")),
    };
    error.with_funnel(wish.funnel(shared, &store))
}

/// Every node failed a dial.
fn unconnected(shared: &Shared, store: &Store, wish: &Wish<'_>) -> CallError {
    CallError::new(CallErrorKind::Connect, "no instance could be connected to")
        .with_attempts(failures(store, wish))
        .with_funnel(wish.funnel(shared, store))
}

/// The last failed dial of each node that the call might have gone to, at most eight of them.
fn failures(store: &Store, wish: &Wish<'_>) -> Vec<Attempt> {
    let choices = store.members.iter().filter(|member| wish.is_choice(member));
    choices.filter_map(|member| link_of(member.node()).last_failure()).take(8).collect()
}

/// Which nodes failed a dial since the wait began.
#[derive(Default)]
struct Dials {
    /// A node and the dials it had failed when it was first seen.
    seen: HashMap<NodeKey, u64>,
}

impl Dials {
    /// Looks at the nodes that the call might go to at the moment; says whether each of them failed since it
    /// was first seen.
    fn look(&mut self, store: &Store, wish: &Wish<'_>) -> bool {
        let choices = || store.members.iter().filter(|member| wish.is_choice(member)).map(Member::node);
        if choices().any(|node| node.is_ready()) {
            return false;
        }
        let mut all = choices().next().is_some();
        for node in choices() {
            let failures = link_of(node).failures();
            let before = *self.seen.entry(node.key().clone()).or_insert(failures);
            all &= failures > before && !node.is_ready();
        }
        all
    }
}

/// Counts a waiting call.
struct Waiting<'a>(&'a Shared);

impl<'a> Waiting<'a> {
    fn begin(shared: &'a Shared) -> Result<Self, CallError> {
        let others = shared.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Self(shared);
        if others < shared.config.max_waiting.max(1) {
            return Ok(waiting);
        }
        let text = format!("{others} calls of this client wait for a connection already (`max_waiting`)");
        Err(CallError::new(CallErrorKind::Overloaded, text))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
