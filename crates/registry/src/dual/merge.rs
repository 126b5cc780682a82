//! The decisions of a dual registry about one view: what two sides that may be stale, wiped, lagging or
//! dead show together.
//!
//! No runtime, no clock, no stream: the time is an argument, and what is to be done comes back as
//! [`Action`]s. The rules stand at [`Dual`](super::Dual); `tests/schedules` holds them over random
//! schedules.

use std::{cmp::Reverse, collections::HashSet, sync::Arc, time::Duration};

use meshwork_core::{Instance, InstanceId, Instances, Query, Seen, Snapshot, Staleness, Status};
use tokio::time::Instant;

use super::{
    Policy, Read, Side, Standing,
    certainty::{Certainty, says_the_same},
    compare::{Comparison, Told},
    face::Face,
    pairs::pairs,
    places::{Places, addresses},
    recent::Recent,
};
use crate::reflector::{Publication, tombstones::Tombstones};

/// What only the secondary side shows leaves after the primary has been asked without trouble for this long.
const CALM: Duration = Duration::from_secs(30);

/// How long a view is kept after its last watch.
const LINGER: Duration = Duration::from_secs(30);

/// What happened to a view.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A side shows this. One that is not followed is passed over.
    Told(Side, Snapshot),
    /// A client saw something of an instance.
    Saw(InstanceId, Seen),
    /// The policy is this from now on.
    Steered(Policy),
    /// The first watch came, or the last one went.
    Watched(bool),
    /// The time of [`Merge::deadline`] has come.
    Due,
}

/// What is to be done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action {
    /// Publish the union. Nothing is published that does not differ from what was published last.
    Publish(Publication),
    /// What the sides disagree on for long is not what it was; see [`Merge::standing`].
    Report,
    /// Write a log line about disagreements.
    Tell(Told),
    /// Nobody watches any more: end, unless somebody came in this moment; then give [`Event::Watched`].
    End,
}

/// The union of two sides' views of one query.
#[derive(Debug)]
pub struct Merge {
    policy: Policy,
    certainty: Certainty,
    faces: [Face; 2],
    /// Whether the primary side is in need of the secondary ([`Read::PrimaryThenSecondary`]).
    leaning: bool,
    /// Since when the primary is asked without trouble.
    calm_since: Option<Instant>,
    /// Who was seen leaving; they never come back.
    gone: Tombstones,
    /// Whose connection answered as itself, the latest last.
    confirmed: Recent<()>,
    places: Places,
    comparison: Comparison,
    /// What counted when it was last decided: the sides read, and the sides waited for.
    mode: [[bool; 2]; 2],
    dirty: bool,
    value: Arc<Instances>,
    held: Arc<[InstanceId]>,
    staleness: Staleness,
    unwatched: Option<Instant>,
    query: Query,
}

impl Merge {
    /// A union of which nothing is known. `names` are what errors call the sides; `finds` tells which of
    /// them find anything at all.
    pub fn new(query: Query, names: [Arc<str>; 2], finds: [bool; 2], policy: Policy, now: Instant) -> Self {
        let mut merge = Self {
            policy,
            certainty: Certainty::new(names, now),
            faces: finds.map(Face::new),
            leaning: false,
            calm_since: None,
            gone: Tombstones::default(),
            confirmed: Recent::default(),
            places: Places::default(),
            comparison: Comparison::default(),
            mode: [[false; 2]; 2],
            dirty: false,
            value: Arc::new([]),
            held: Arc::new([]),
            staleness: Staleness::Pending { cause: None },
            unwatched: None,
            query,
        };
        merge.follow(now);
        merge.mode = [merge.read(), merge.faces.each_ref().map(|face| face.is_awaited(now))];
        merge
    }

    /// Whether this side is to be watched now.
    pub fn follows(&self, side: Side) -> bool {
        self.faces[side.at()].followed.is_some()
    }

    /// When [`Event::Due`] is to be given, if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let [primary, secondary] = self.faces.each_ref().map(Face::awaited_until);
        // A side that was given up waiting for is in the past, and decided.
        let awaited = |side: Side, until: Option<Instant>| until.filter(|_| self.mode[1][side.at()]);
        let calm = self.calm_since.filter(|_| self.leaning).map(|since| since + CALM);
        let compare = if self.is_comparable() { self.comparison.deadline(&self.policy) } else { None };
        let end = self.unwatched.map(|since| since + LINGER);
        let waits = [awaited(Side::Primary, primary), awaited(Side::Secondary, secondary)];
        waits.into_iter().chain([calm, compare, end]).flatten().min()
    }

    /// How the sides stand.
    pub fn standing(&self) -> Standing {
        let staleness = self.faces.each_ref().map(|face| face.followed.map(|_| face.staleness.clone()));
        let (disagreements, disagreeing) = self.comparison.lasting();
        Standing {
            query: self.query.clone(),
            staleness,
            instances: self.faces.each_ref().map(|face| face.shown.len()),
            disagreeing,
            disagreements: Arc::clone(disagreements),
        }
    }

    /// Takes one event; what is to be done is added to `actions`, in order.
    pub fn step(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Told(side, view) if self.follows(side) => self.told(side, &view, now),
            Event::Told(..) => {}
            Event::Saw(id, what) => self.saw(&id, what),
            Event::Steered(policy) => {
                self.policy = policy;
                self.follow(now);
            }
            Event::Watched(true) => self.unwatched = None,
            Event::Watched(false) => self.unwatched = Some(now),
            Event::Due => {
                if self.unwatched.is_some_and(|since| now >= since + LINGER) {
                    actions.push(Action::End);
                    return;
                }
            }
        }
        self.lean(now);
        self.decide(now, actions);
        let [primary, secondary] = &self.faces;
        let shown = self.is_comparable().then(|| [&*primary.shown, &*secondary.shown]);
        let said = self.comparison.step(shown, &self.gone, &self.policy, now);
        actions.extend(said.report.then_some(Action::Report));
        actions.extend(said.line.map(Action::Tell));
    }

    // === what is known ===

    fn follow(&mut self, now: Instant) {
        for side in Side::BOTH {
            let wanted = self.policy.watches(side);
            let face = &mut self.faces[side.at()];
            if face.followed.is_some() && !wanted {
                face.shown.iter().for_each(|instance| self.places.remove(instance));
                self.comparison.clear();
            }
            face.follow(wanted, now);
        }
    }

    fn told(&mut self, side: Side, view: &Snapshot, now: Instant) {
        let [primary, secondary] = &mut self.faces;
        let (face, other) = match side {
            Side::Primary => (primary, secondary),
            Side::Secondary => (secondary, primary),
        };
        let (before, after) = (Arc::clone(&face.shown), view.value());
        let is_fresh = view.staleness().is_fresh();
        for (old, new) in pairs(&before, after) {
            if let (Some(old), Some(new)) = (old, new)
                && Arc::ptr_eq(old, new)
            {
                continue;
            }
            if let Some(old) = old {
                self.places.remove(old);
            }
            match (old, new) {
                (_, Some(new)) => {
                    self.places.add(new);
                    face.dropped.forget(&new.id);
                    if is_fresh {
                        other.dropped.forget(&new.id);
                    }
                }
                (Some(old), None) => face.dropped.note(old.id.clone(), now),
                (None, None) => {}
            }
        }
        if is_fresh && !face.staleness.is_fresh() && !other.dropped.is_empty() {
            // Asked anew, it confirms all that it shows.
            for instance in after.iter() {
                other.dropped.forget(&instance.id);
            }
        }
        face.take(view);
        self.comparison.touch();
        self.dirty = true;
    }

    fn saw(&mut self, id: &InstanceId, what: Seen) {
        match what {
            Seen::Itself => {
                self.confirmed.note(id.clone(), ());
                // Whoever gives its address the name already goes on doing so.
                self.dirty |= find(&self.value, id).is_none() && self.is_in_crowd(id);
            }
            Seen::Refused | Seen::Another => {
                self.dirty |= self.confirmed.forget(id) && self.is_in_crowd(id);
            }
            // A foreign id may be an address that is used again.
            Seen::Draining if self.records(id).all(|record| record.is_native()) => {
                self.confirmed.forget(id);
                self.gone.add(id.clone());
                self.dirty = true;
            }
            _ => {}
        }
    }

    /// What the sides show of an id.
    fn records<'a>(&'a self, id: &'a InstanceId) -> impl Iterator<Item = &'a Arc<Instance>> {
        self.faces.iter().filter_map(|face| Some(&face.shown[find(&face.shown, id)?]))
    }

    fn is_in_crowd(&self, id: &InstanceId) -> bool {
        self.records(id)
            .flat_map(|record| addresses(record))
            .any(|address| self.places.is_crowded_at(&address))
    }

    fn lean(&mut self, now: Instant) {
        let primary = &self.faces[Side::Primary.at()];
        if primary.staleness.is_fresh() {
            let since = *self.calm_since.get_or_insert(now);
            self.leaning &= now < since + CALM;
        } else if !primary.is_awaited(now) {
            self.leaning = true;
            self.calm_since = None;
        }
    }

    /// The sides whose word counts now.
    fn read(&self) -> [bool; 2] {
        let by_policy = match self.policy.read {
            Read::PrimaryThenSecondary => [true, self.leaning],
            read => Side::BOTH.map(|side| read.is_of(side)),
        };
        Side::BOTH.map(|side| by_policy[side.at()] && self.follows(side))
    }

    fn is_comparable(&self) -> bool {
        self.faces.iter().all(|face| face.staleness.is_fresh())
    }

    // === what is shown ===

    fn decide(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let read = self.read();
        let awaited = self.faces.each_ref().map(|face| face.is_awaited(now));
        let mode = [read, awaited];
        if mode == self.mode && !self.dirty {
            return;
        }
        (self.mode, self.dirty) = (mode, false);
        let is_awaited = |side: Side| read[side.at()] && awaited[side.at()];
        let counts = Side::BOTH.map(|side| read[side.at()] && !awaited[side.at()]);
        let was_known = !self.staleness.is_pending();
        if (!was_known || counts == [false; 2]) && Side::BOTH.into_iter().any(is_awaited) {
            // The first answer, or the other half of it, is on its way.
            return;
        }
        let is_known =
            Side::BOTH.into_iter().any(|side| counts[side.at()] && self.faces[side.at()].is_known());
        let staleness = self.certainty.of(&self.faces, counts, &self.staleness, now);
        if !is_known {
            // Unknown never takes the place of what was known.
            if !says_the_same(&self.staleness, &staleness) {
                self.publish(staleness, None, actions);
            }
            return;
        }
        let (value, held) = self.union(counts);
        let differs = value.len() != self.value.len()
            || value.iter().zip(self.value.iter()).any(|(new, old)| !Arc::ptr_eq(new, old));
        let differs = differs || held[..] != self.held[..] || !was_known;
        if differs {
            self.held = held.into();
        }
        let value = differs.then(|| Arc::from(value));
        if differs || !says_the_same(&self.staleness, &staleness) {
            self.publish(staleness, value, actions);
        }
    }

    fn publish(&mut self, staleness: Staleness, value: Option<Arc<Instances>>, actions: &mut Vec<Action>) {
        self.staleness = staleness.clone();
        if let Some(value) = &value {
            self.value = Arc::clone(value);
        }
        actions.push(Action::Publish(Publication { staleness, value, held: Arc::clone(&self.held) }));
    }

    /// Whose record counts when both show an id.
    fn trusted(&self) -> Side {
        let [primary, secondary] = &self.faces;
        let is_secondary = match (&primary.staleness, &secondary.staleness) {
            (Staleness::Fresh, _) => false,
            (_, Staleness::Fresh) => true,
            // The one that could be asked last.
            _ => secondary.stale_since().map(|(at, _)| at) > primary.stale_since().map(|(at, _)| at),
        };
        if is_secondary { Side::Secondary } else { Side::Primary }
    }

    /// The members, sorted by id, and those of them that are held.
    fn union(&mut self, counts: [bool; 2]) -> (Vec<Arc<Instance>>, Vec<InstanceId>) {
        let trusted = self.trusted();
        let [primary, secondary] = &self.faces;
        let shown = |side: Side, face: &Face| -> Arc<Instances> {
            if counts[side.at()] { Arc::clone(&face.shown) } else { Arc::new([]) }
        };
        let (of_primary, of_secondary) = (shown(Side::Primary, primary), shown(Side::Secondary, secondary));
        let counts_both = counts == [true; 2];
        let stands = |face: &Face, other: &Face, record: &Arc<Instance>| {
            !counts_both || other.dropped.get(&record.id).is_none_or(|at| !face.is_outlived(*at))
        };
        let (mut value, mut held, mut leaving) = (Vec::new(), Vec::new(), Vec::new());
        value.reserve(of_primary.len().max(of_secondary.len()));
        let mut last = self.value.iter().peekable();
        for (first, second) in pairs(&of_primary, &of_secondary) {
            let first = first.filter(|record| stands(primary, secondary, record));
            let second = second.filter(|record| stands(secondary, primary, record));
            let Some(record) = choose(first, second, trusted, &self.gone, &mut leaving) else { continue };
            let id = &record.id;
            let is_held = |face: &Face, shown: Option<&Arc<Instance>>| shown.is_none() || face.holds(id);
            if is_held(primary, first) && is_held(secondary, second) {
                held.push(id.clone());
            }
            while last.next_if(|known| known.id < *id).is_some() {}
            // An equal record keeps its pointer: readers tell by it what did not change.
            let known = last.next_if(|known| known.id == *id).filter(|known| *known == record);
            value.push(Arc::clone(known.unwrap_or(record)));
        }
        leaving.into_iter().for_each(|id| self.gone.add(id));
        if self.places.is_crowded() {
            let hidden = self.hidden(&value);
            value.retain(|instance| !hidden.contains(&instance.id));
            held.retain(|id| !hidden.contains(id));
        }
        (value, held)
    }

    /// Those who share an address with a better record: they are the same member.
    fn hidden(&self, value: &[Arc<Instance>]) -> HashSet<InstanceId> {
        let ids: HashSet<&InstanceId> = self.places.crowd().collect();
        let mut crowd: Vec<_> = value.iter().filter(|instance| ids.contains(&instance.id)).collect();
        let rank = |instance: &Instance| {
            // One that is leaving makes room for whoever took its address over.
            let confirmed =
                if instance.status == Status::Leaving { 0 } else { self.confirmed.order(&instance.id) };
            (confirmed, instance.is_native(), instance.start_time)
        };
        // Stable: of equal ones the first by id stands.
        crowd.sort_by_cached_key(|instance| Reverse(rank(instance)));
        let (mut taken, mut hidden) = (HashSet::new(), HashSet::new());
        for instance in crowd {
            if addresses(instance).any(|address| taken.contains(&address)) {
                hidden.insert(instance.id.clone());
            } else {
                taken.extend(addresses(instance));
            }
        }
        hidden
    }
}

/// Where an id stands in a list that is sorted by id.
fn find(instances: &Instances, id: &InstanceId) -> Option<usize> {
    instances.binary_search_by(|known| known.id.cmp(id)).ok()
}

/// The record of one id: `leaving` wins and is noted, who was seen leaving never is up again, else the
/// side that is trusted.
fn choose<'a>(
    first: Option<&'a Arc<Instance>>,
    second: Option<&'a Arc<Instance>>,
    trusted: Side,
    gone: &Tombstones,
    leaving: &mut Vec<InstanceId>,
) -> Option<&'a Arc<Instance>> {
    let (preferred, other) = match trusted {
        Side::Primary => (first, second),
        Side::Secondary => (second, first),
    };
    let is_leaving = |record: &&Arc<Instance>| record.status == Status::Leaving;
    if let Some(record) = preferred.filter(is_leaving).or(other.filter(is_leaving)) {
        leaving.push(record.id.clone());
        return Some(record);
    }
    preferred.or(other).filter(|record| !gone.contains(&record.id))
}

#[cfg(test)]
mod tests;
