//! Finds what two sides disagree on for long.
//!
//! Looked at when something changed, at most once a second, and only while both sides are asked with
//! success: what one of them says of an outage is no disagreement.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use meshwork_core::{Instance, InstanceId, Instances, Status};
use tokio::time::Instant;

use super::{Difference, Disagreement, Policy, Side, Write, pairs::pairs, places::addresses};
use crate::{Line, outage::Outage, reflector::tombstones::Tombstones};

/// How many disagreements of one view are listed.
const LISTED: usize = 256;

/// How many are named in a log line.
const NAMED: usize = 8;

/// The sides are compared at most this often.
const APART: Duration = Duration::from_secs(1);

/// A lasting disagreement is told again after this long.
const TOLD_EVERY: Duration = Duration::from_secs(300);

/// What a log line tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Told {
    /// Which moment of the disagreement.
    pub line: Line,
    /// How many instances only one side shows, the primary first.
    pub only: [usize; 2],
    /// How many instances both show with different records.
    pub records: usize,
    /// The first of all these.
    pub ids: Vec<InstanceId>,
}

/// What is to be said after a step.
#[derive(Debug, Default)]
pub(super) struct Said {
    /// The list is another one.
    pub(super) report: bool,
    pub(super) line: Option<Told>,
}

#[derive(Debug)]
pub(super) struct Comparison {
    known: BTreeMap<InstanceId, (Difference, Instant)>,
    lasting: Arc<[Disagreement]>,
    total: usize,
    touched: bool,
    cleared: bool,
    last: Option<Instant>,
    /// When the next of those known has lasted for long.
    next: Option<Instant>,
    outage: Outage,
}

impl Default for Comparison {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            lasting: Arc::new([]),
            total: 0,
            touched: false,
            cleared: false,
            last: None,
            next: None,
            outage: Outage::new(),
        }
    }
}

impl Comparison {
    /// Some side shows something else.
    pub(super) fn touch(&mut self) {
        self.touched = true;
    }

    /// A side is not watched any more.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        (self.cleared, self.next) = (true, None);
    }

    /// The first [`LISTED`] that lasted for long, and how many there are.
    pub(super) fn lasting(&self) -> (&Arc<[Disagreement]>, usize) {
        (&self.lasting, self.total)
    }

    /// When the step is to be taken, while both sides are asked with success.
    pub(super) fn deadline(&self, policy: &Policy) -> Option<Instant> {
        let walk = self.last.filter(|_| self.touched).map(|last| last + apart(policy));
        walk.into_iter().chain(self.next).min()
    }

    /// Compares when it is time to. `shown` is what the sides show, if both are asked with success.
    pub(super) fn step(
        &mut self,
        shown: Option<[&Instances; 2]>,
        gone: &Tombstones,
        policy: &Policy,
        now: Instant,
    ) -> Said {
        let is_due = self.last.is_none_or(|last| now >= last + apart(policy));
        match shown {
            Some(shown) if self.touched && is_due => {
                (self.touched, self.last) = (false, Some(now));
                self.compare(shown, gone, now);
            }
            Some(_) if self.next.is_some_and(|next| now >= next) => {}
            _ if self.cleared => {}
            _ => return Said::default(),
        }
        self.cleared = false;
        self.judge(policy, now)
    }

    fn compare(&mut self, [primary, secondary]: [&Instances; 2], gone: &Tombstones, now: Instant) {
        let mut before = std::mem::take(&mut self.known);
        let mut places: [Option<HashSet<_>>; 2] = [None, None];
        for (first, second) in pairs(primary, secondary) {
            let difference = match (first, second) {
                (Some(first), Some(second)) if first == second || serves_the_same(first, second) => continue,
                (Some(first), Some(_)) => (first, Difference::Record),
                (Some(only), None) => (only, Difference::Only(Side::Primary)),
                (None, Some(only)) => (only, Difference::Only(Side::Secondary)),
                (None, None) => continue,
            };
            let (instance, difference) = difference;
            if instance.status == Status::Leaving || gone.contains(&instance.id) {
                continue;
            }
            if let Difference::Only(side) = difference {
                let others = if side == Side::Primary { secondary } else { primary };
                let all = || others.iter().flat_map(|other| addresses(other)).collect();
                let places = places[side.at()].get_or_insert_with(all);
                if addresses(instance).any(|address| places.contains(&address)) {
                    // The other side knows it by another id.
                    continue;
                }
            }
            let since = before.remove(&instance.id).filter(|(known, _)| *known == difference);
            let since = since.map_or(now, |(_, since)| since);
            self.known.insert(instance.id.clone(), (difference, since));
        }
    }

    /// Which of those known last for long.
    fn judge(&mut self, policy: &Policy, now: Instant) -> Said {
        let lasts = |since: Instant| now.saturating_duration_since(since) >= policy.disagreement;
        let since = || self.known.values().map(|(_, since)| *since);
        self.next = since()
            .filter(|since| !lasts(*since))
            .min()
            .and_then(|since| since.checked_add(policy.disagreement));
        let (mut lasting, mut only, mut records, mut total) = (Vec::new(), [0; 2], 0, 0);
        for (id, (difference, since)) in self.known.iter().filter(|(_, (_, since))| lasts(*since)) {
            total += 1;
            match difference {
                Difference::Only(side) => only[side.at()] += 1,
                Difference::Record => records += 1,
            }
            if lasting.len() < LISTED {
                lasting.push(Disagreement { id: id.clone(), difference: *difference, since: *since });
            }
        }
        let report = total != self.total || lasting[..] != self.lasting[..];
        if report {
            (self.lasting, self.total) = (lasting.into(), total);
        }
        // Only who writes both means both to say the same.
        let line = if total > 0 && policy.write == Write::Both {
            self.outage.failed(TOLD_EVERY, now)
        } else {
            self.outage.recovered(now)
        };
        let ids = self.lasting.iter().take(NAMED).map(|one| one.id.clone()).collect();
        Said { report, line: line.map(|line| Told { line, only, records, ids }) }
    }
}

fn apart(policy: &Policy) -> Duration {
    APART.min(policy.disagreement / 4)
}

/// Whether clients act alike on both records. (Registries do not all carry the rest without loss.)
fn serves_the_same(a: &Instance, b: &Instance) -> bool {
    let places = |one: &Instance, other: &Instance| one.endpoints.iter().all(|e| other.endpoints.contains(e));
    (a.status, a.weight) == (b.status, b.weight)
        && (&a.zone, &a.deployment) == (&b.zone, &b.deployment)
        && places(a, b)
        && places(b, a)
}
