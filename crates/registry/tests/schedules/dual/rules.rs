//! What must hold after each step, told from the history of what the sides showed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use meshwork_core::{Instance, InstanceId, Instances, Seen, Staleness, Status};
use meshwork_registry::{
    dual::{Policy, Read, Side},
    reflector::Publication,
};
use tokio::time::Instant;

use super::world::Told;

/// A silent side is waited for this long.
const PATIENCE: Duration = Duration::from_millis(500);
/// A drop this long before a side went stale was outlived by it.
const OUTLIVED: Duration = Duration::from_secs(30);
/// What was added to the primary leaves after it has been calm for this long.
const CALM: Duration = Duration::from_secs(30);

/// One thing that a side showed.
struct Shown {
    at: Instant,
    staleness: Staleness,
    told: Told,
}

/// All that a side showed since it is watched.
#[derive(Default)]
struct History {
    since: Option<Instant>,
    shown: Vec<(u64, Shown)>,
}

pub(super) struct Rules {
    policy: Policy,
    began: Instant,
    /// Numbers whatever happens, so that things of one moment have an order.
    count: u64,
    sides: [History; 2],
    /// Since when the primary is fresh, and whether it had trouble before.
    fresh_since: Option<Instant>,
    had_trouble: bool,
    /// Whose id was seen leaving on a side that counted, or said that it drains.
    left: BTreeSet<InstanceId>,
    confirmed: BTreeMap<InstanceId, u64>,
    view: Arc<Instances>,
    staleness: Staleness,
    held: BTreeSet<InstanceId>,
}

impl History {
    fn last(&self) -> Option<&Shown> {
        self.shown.last().map(|(_, shown)| shown)
    }

    fn staleness(&self) -> Staleness {
        self.last().map_or(Staleness::Pending { cause: None }, |shown| shown.staleness.clone())
    }

    fn record(&self, id: &InstanceId) -> Option<&Arc<Instance>> {
        self.last()?.told.records.get(id)
    }

    fn is_awaited(&self, now: Instant) -> bool {
        let is_silent = matches!(self.staleness(), Staleness::Pending { cause: None });
        self.since.is_some_and(|since| is_silent && now < since + PATIENCE)
    }

    /// When the id, which is not shown now, was dropped last.
    fn dropped(&self, id: &InstanceId) -> Option<(u64, Instant)> {
        if self.record(id).is_some() {
            return None;
        }
        let had = |(_, shown): &(u64, Shown)| shown.told.records.contains_key(id);
        let last_with = self.shown.iter().rposition(had)?;
        let (count, after) = &self.shown[last_with + 1];
        Some((*count, after.at))
    }

    /// Whether the side has confirmed the id after this: shown it anew or differently, or been asked
    /// anew, each time with success.
    fn confirms_after(&self, id: &InstanceId, count: u64) -> bool {
        let pairs = self.shown.windows(2).map(|pair| (Some(&pair[0].1), &pair[1]));
        let first = self.shown.first().map(|first| (None, first));
        first.into_iter().chain(pairs).any(|(before, (at, after))| {
            let now = after.told.records.get(id);
            let then = before.and_then(|before| before.told.records.get(id));
            let is_news = now.is_some() && now != then;
            let is_asked_anew = now.is_some() && before.is_none_or(|before| !before.staleness.is_fresh());
            *at > count && after.staleness.is_fresh() && (is_news || is_asked_anew)
        })
    }
}

impl Rules {
    pub(super) fn new(policy: Policy, now: Instant) -> Self {
        let mut rules = Self {
            policy,
            began: now,
            count: 0,
            sides: Default::default(),
            fresh_since: None,
            had_trouble: false,
            left: BTreeSet::new(),
            confirmed: BTreeMap::new(),
            view: Arc::new([]),
            staleness: Staleness::Pending { cause: None },
            held: BTreeSet::new(),
        };
        rules.steered(policy, now);
        rules
    }

    // === what happened ===

    pub(super) fn told(&mut self, side: Side, staleness: Staleness, told: Told, at: Instant) {
        self.count += 1;
        self.sides[side as usize].shown.push((self.count, Shown { at, staleness, told }));
    }

    pub(super) fn saw(&mut self, id: &InstanceId, what: Seen) {
        self.count += 1;
        match what {
            Seen::Itself => drop(self.confirmed.insert(id.clone(), self.count)),
            Seen::Draining => {
                self.confirmed.remove(id);
                self.left.insert(id.clone());
            }
            _ => drop(self.confirmed.remove(id)),
        }
    }

    pub(super) fn steered(&mut self, policy: Policy, now: Instant) {
        self.policy = policy;
        for side in Side::BOTH {
            let history = &mut self.sides[side as usize];
            match (history.since, policy.watches(side)) {
                (None, true) => history.since = Some(now),
                (Some(_), false) => *history = History::default(),
                _ => {}
            }
        }
    }

    pub(super) fn published(&mut self, publication: Publication) {
        let Publication { staleness, value, held, .. } = publication;
        let held: BTreeSet<_> = held.iter().cloned().collect();
        let is_same_value = value.as_ref().is_none_or(|value| {
            value.len() == self.view.len()
                && value.iter().zip(self.view.iter()).all(|(a, b)| Arc::ptr_eq(a, b))
        });
        let is_same_word = format!("{staleness:?}") == format!("{:?}", self.staleness);
        let is_first = self.staleness.is_pending() && !staleness.is_pending();
        assert!(
            !is_same_value || !is_same_word || held != self.held || is_first,
            "a view was published that says nothing new"
        );
        if let Some(value) = value {
            for instance in value.iter() {
                let before = self.view.iter().find(|known| known.id == instance.id);
                if let Some(before) = before.filter(|before| *before == instance) {
                    assert!(Arc::ptr_eq(before, instance), "{} is the same and looks new", instance.id);
                }
            }
            self.view = value;
        }
        assert!(self.staleness.is_pending() || !staleness.is_pending(), "what was known became unknown");
        (self.staleness, self.held) = (staleness, held);
    }

    pub(super) fn view(&self) -> (&Staleness, &Instances) {
        (&self.staleness, &self.view)
    }

    // === what must hold ===

    pub(super) fn check(&mut self, now: Instant) {
        let leans = self.leans(now);
        let is_read = |side: Side| match self.policy.read {
            Read::Union => true,
            Read::PrimaryThenSecondary => side == Side::Primary || leans,
            Read::Primary => side == Side::Primary,
            Read::Secondary => side == Side::Secondary,
        };
        let read: Vec<_> = Side::BOTH.into_iter().filter(|side| is_read(*side)).collect();
        let counting: Vec<_> =
            read.iter().copied().filter(|side| !self.sides[*side as usize].is_awaited(now)).collect();
        let awaited = counting.len() < read.len();
        self.check_shape();
        let is_known = counting.iter().any(|side| !self.sides[*side as usize].staleness().is_pending());
        if !is_known {
            // What was known stands, and says that it is not sure, unless an answer is on its way.
            let says_so = !self.staleness.is_fresh() || (counting.is_empty() && awaited);
            assert!(says_so, "a view of nobody's answer is fresh");
            return;
        }
        if self.staleness.is_pending() && awaited {
            return;
        }
        self.note_leaving(&counting);
        self.check_certainty(&counting);
        self.check_members(&counting);
        self.check_absent(&counting);
    }

    fn leans(&mut self, now: Instant) -> bool {
        let primary = &self.sides[0];
        if primary.staleness().is_fresh() {
            let since = *self.fresh_since.get_or_insert(now);
            if now >= since + CALM {
                self.had_trouble = false;
            }
        } else if !primary.is_awaited(now) {
            (self.had_trouble, self.fresh_since) = (true, None);
        }
        self.had_trouble
    }

    fn note_leaving(&mut self, counting: &[Side]) {
        for side in counting {
            let Some(shown) = self.sides[*side as usize].last() else { continue };
            let leaving = shown.told.records.values().filter(|record| record.status == Status::Leaving);
            let ids: Vec<_> = leaving
                .map(|record| record.id.clone())
                .filter(|id| self.stands(*side, counting, id))
                .collect();
            self.left.extend(ids);
        }
    }

    fn check_shape(&self) {
        assert!(self.view.is_sorted_by(|a, b| a.id < b.id), "a view is sorted by id");
        let mut places = BTreeSet::new();
        for instance in self.view.iter() {
            assert!(places.insert(port(instance)), "two members at the address of {}", instance.id);
        }
        let ids: BTreeSet<_> = self.view.iter().map(|instance| instance.id.clone()).collect();
        assert!(self.held.is_subset(&ids), "somebody is held who is not there");
    }

    fn check_certainty(&self, counting: &[Side]) {
        let of = |side: &Side| self.sides[*side as usize].staleness();
        let all_fresh = counting.iter().all(|side| of(side).is_fresh());
        assert_eq!(self.staleness.is_fresh(), all_fresh, "{:?} of {counting:?}", self.staleness);
        let Staleness::Stale { since, age, cause } = &self.staleness else {
            return assert!(!self.staleness.is_pending(), "somebody answered");
        };
        let text = meshwork_core::ErrorChain(&**cause).to_string();
        for side in Side::BOTH {
            let fails = counting.contains(&side) && !of(&side).is_fresh();
            assert_eq!(text.contains(side.as_str()), fails, "{side} in the cause: {text}");
        }
        let oldest = counting.iter().filter_map(|side| match of(side) {
            Staleness::Stale { since, age, .. } => Some((since, age)),
            Staleness::Pending { .. } => {
                Some((self.sides[*side as usize].since.unwrap_or(self.began), Duration::ZERO))
            }
            _ => None,
        });
        for (other, its_age) in oldest {
            assert!(*since + its_age <= other + *age, "an older answer is in the view");
        }
    }

    /// Whether what a side shows of an id counts: it is asked with success, or the other has not dropped
    /// the id since it was.
    fn stands(&self, side: Side, counting: &[Side], id: &InstanceId) -> bool {
        let (history, other) = (&self.sides[side as usize], &self.sides[side.other() as usize]);
        let Staleness::Stale { since, age, .. } = history.staleness() else { return true };
        if !counting.contains(&side.other()) {
            return true;
        }
        let Some((count, at)) = other.dropped(id) else { return true };
        history.confirms_after(id, count) || at + OUTLIVED + age <= since
    }

    /// The records of an id that count.
    fn records(&self, counting: &[Side], id: &InstanceId) -> Vec<(Side, &Arc<Instance>)> {
        let of = |side: &Side| {
            let record = self.sides[*side as usize].record(id)?;
            self.stands(*side, counting, id).then_some((*side, record))
        };
        counting.iter().filter_map(of).collect()
    }

    fn check_members(&self, counting: &[Side]) {
        for member in self.view.iter() {
            let id = &member.id;
            let records = self.records(counting, id);
            assert!(!records.is_empty(), "{id} is shown by nobody who counts");
            assert!(records.iter().any(|(_, record)| *record == member), "{id} is nobody's record");
            let leaving = records.iter().any(|(_, record)| record.status == Status::Leaving);
            assert!(!leaving || member.status == Status::Leaving, "{id} leaves on one side");
            assert!(!self.left.contains(id) || member.status == Status::Leaving, "{id} left and is up again");
            if let (false, Some(trusted)) = (leaving, self.trusted(&records)) {
                assert_eq!(trusted, member, "{id} is of the wrong side");
            }
            let holds = |side: Side| {
                self.sides[side as usize].last().is_some_and(|shown| shown.told.held.contains(id))
            };
            let is_held = records.iter().all(|(side, _)| holds(*side));
            assert_eq!(self.held.contains(id), is_held, "{id} held: {records:?}");
        }
    }

    /// The record that counts by who can be asked; `None` when neither can.
    fn trusted<'a>(&self, records: &[(Side, &'a Arc<Instance>)]) -> Option<&'a Arc<Instance>> {
        let fresh =
            |(side, _): &&(Side, &'a Arc<Instance>)| self.sides[*side as usize].staleness().is_fresh();
        match records {
            [(_, only)] => Some(only),
            _ => records.iter().find(fresh).map(|(_, record)| *record),
        }
    }

    /// Nobody who counts is absent, unless gone for good or the same member as a better one.
    fn check_absent(&self, counting: &[Side]) {
        let shown = counting.iter().filter_map(|side| self.sides[*side as usize].last());
        let ids: BTreeSet<_> = shown.flat_map(|shown| shown.told.records.keys()).collect();
        for id in ids {
            let records = self.records(counting, id);
            let is_leaving = records.iter().any(|(_, record)| record.status == Status::Leaving);
            let is_over = self.left.contains(id) && !is_leaving;
            if records.is_empty() || is_over || self.view.iter().any(|member| member.id == *id) {
                continue;
            }
            let at = port(records[0].1);
            let better = self.view.iter().find(|member| port(member) == at);
            let better = better.unwrap_or_else(|| panic!("{id} is missing: {records:?}"));
            assert!(
                records.iter().any(|(_, record)| self.rank(better) >= self.rank(record)),
                "{} stands for {id}",
                better.id
            );
        }
    }

    /// Who gives a shared address its name: whose connection was confirmed last, a native one, the youngest.
    fn rank(&self, instance: &Instance) -> (u64, bool, Option<meshwork_core::Timestamp>) {
        let confirmed = self.confirmed.get(&instance.id).copied().unwrap_or(0);
        let confirmed = if instance.status == Status::Leaving { 0 } else { confirmed };
        (confirmed, instance.is_native(), instance.start_time)
    }
}

fn port(instance: &Instance) -> u16 {
    instance.endpoints[0].port()
}
