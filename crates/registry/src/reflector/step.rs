//! The decisions of the reflector: what a change, a failure or a moment does to one view.
//!
//! No runtime, no clock, no stream: the time is an argument, the randomness a seeded field, and what is
//! to be done comes back as [`Action`]s.

use std::{sync::Arc, time::Duration};

use meshwork_core::{
    Change, Error, ErrorKind, InstanceId, Instances, Query, Refusal, RefusalKind, Seen, Staleness,
};
use tokio::time::Instant;

use super::{
    records::{Applied, Records},
    refusals::Refusals,
};
use crate::{Dice, DriverOptions, Line, RefusedRecord, backoff::Backoff, guard::Removals, outage::Outage};

/// What happened to a view.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The subscription of this epoch told something.
    Changed {
        /// The epoch given with [`Action::Subscribe`]; what an older subscription tells late is passed over.
        epoch: u64,
        /// What it told.
        change: Change,
    },
    /// The subscription of this epoch ended.
    Failed {
        /// As in `Changed`.
        epoch: u64,
        /// Why.
        error: Arc<Error>,
    },
    /// A client saw something of an instance.
    Saw(InstanceId, Seen),
    /// The first watch came, or the last one went.
    Watched(bool),
    /// The time of [`Reflector::deadline`] has come.
    Due,
}

/// What is to be done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action {
    /// Drop the subscription there is, and subscribe; what it tells carries this epoch.
    Subscribe {
        /// Grows by one each time.
        epoch: u64,
    },
    /// Drop the subscription.
    Unsubscribe,
    /// Publish this view.
    Publish(Publication),
    /// Count and list this record.
    Refuse(RefusedRecord),
    /// Write a log line.
    Tell(Told),
    /// Nobody watches any more: end, unless somebody came in this moment; then give [`Event::Watched`].
    End,
}

/// A view to publish.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Publication {
    /// How sure we are of it.
    pub staleness: Staleness,
    /// The set, or `None` when it is the one published last.
    pub value: Option<Arc<Instances>>,
    /// The ids that the registry no longer lists but that are kept.
    pub held: Arc<[InstanceId]>,
}

/// What a log line tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Told {
    /// Which moment of the outage.
    pub line: Line,
    /// What failed last; `None` at the return.
    pub cause: Option<Arc<Error>>,
    /// When it is tried again.
    pub retry_in: Option<Duration>,
    /// How many instances the view has; `None` while nothing was ever read.
    pub instances: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Until the next attempt to subscribe.
    Resting { until: Instant },
    /// Subscribed; the first complete set has not come yet.
    Listing,
    /// The set was read; changes follow.
    Following,
}

/// The state of one view.
#[derive(Debug)]
pub struct Reflector {
    query: Query,
    options: DriverOptions,
    dice: Dice,
    state: State,
    epoch: u64,
    records: Records,
    refusals: Refusals,
    removals: Removals,
    staleness: Staleness,
    backoff: Backoff,
    outage: Outage,
    value_differs: bool,
    state_differs: bool,
    published: Option<Instant>,
    unwatched: Option<Instant>,
}

impl Reflector {
    /// A view of `query` of which nothing is known. It wants to subscribe at `now`.
    pub fn new(query: Query, options: DriverOptions, dice: Dice, now: Instant) -> Self {
        let records = Records::new(options.max_records, options.max_bytes);
        Self {
            query,
            options,
            dice,
            state: State::Resting { until: now },
            epoch: 0,
            records,
            refusals: Refusals::default(),
            removals: Removals::default(),
            staleness: Staleness::Pending { cause: None },
            backoff: Backoff::new(),
            outage: Outage::new(),
            value_differs: false,
            state_differs: false,
            published: None,
            unwatched: None,
        }
    }

    /// When [`Event::Due`] is to be given, if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let retry = match self.state {
            State::Resting { until } => Some(until),
            _ => None,
        };
        let flush = self.is_dirty().then(|| self.flush_at()).flatten();
        let end = self.unwatched.map(|since| since + self.options.linger);
        [retry, flush, end].into_iter().flatten().min()
    }

    /// What the guard counted of this view.
    pub fn removals(&self) -> &Removals {
        &self.removals
    }

    /// Takes one event; what is to be done is added to `actions`, in order.
    pub fn step(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Changed { epoch, change } if self.is_current(epoch) => self.changed(change, now, actions),
            Event::Failed { epoch, error } if self.is_current(epoch) => self.failed(error, now, actions),
            Event::Changed { .. } | Event::Failed { .. } => {}
            Event::Saw(id, what) => self.saw(&id, what, now),
            Event::Watched(true) => self.unwatched = None,
            Event::Watched(false) => self.unwatched = Some(now),
            Event::Due => self.due(now, actions),
        }
        if self.is_dirty() && self.flush_at().is_none_or(|at| now >= at) {
            self.publish(now, actions);
        }
    }

    fn is_current(&self, epoch: u64) -> bool {
        epoch == self.epoch && matches!(self.state, State::Listing | State::Following)
    }

    fn is_dirty(&self) -> bool {
        self.value_differs || self.state_differs
    }

    fn flush_at(&self) -> Option<Instant> {
        self.published.map(|at| at + self.options.coalesce)
    }

    fn due(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.unwatched.is_some_and(|since| now >= since + self.options.linger) {
            actions.push(Action::End);
            return;
        }
        if let State::Resting { until } = self.state
            && now >= until
        {
            self.epoch += 1;
            self.state = State::Listing;
            actions.push(Action::Subscribe { epoch: self.epoch });
        }
    }

    fn changed(&mut self, change: Change, now: Instant, actions: &mut Vec<Action>) {
        match change {
            Change::Refused { id, record, reason } => self.refused(id, record, reason, actions),
            Change::Set(set) => {
                let applied = self.records.apply_set(set, &self.refusals, &mut self.removals, now);
                self.applied(applied, actions);
                self.refusals.end_of_set();
                self.fresh(now, actions);
            }
            // A delta before the first set has nothing to be applied to.
            Change::Delta { .. } if self.state == State::Listing => {
                let text = format!("watching `{}`: a change came before the first set", self.query);
                self.failed(Arc::new(Error::new(ErrorKind::Protocol, text)), now, actions);
            }
            Change::Delta { put, removed } => {
                self.refusals.mended(put.iter().map(|instance| &instance.id).chain(&removed));
                let applied = self.records.apply_delta(put, &removed, &mut self.removals, now);
                self.applied(applied, actions);
                self.refusals.end_of_delta();
            }
            _ => {}
        }
    }

    fn refused(
        &mut self,
        id: Option<InstanceId>,
        record: Box<str>,
        reason: Refusal,
        actions: &mut Vec<Action>,
    ) {
        let is_known = id.as_ref().is_some_and(|id| self.records.get(id).is_some());
        let counted = self.refusals.take(&self.query, id, record, reason, is_known);
        actions.extend(counted.map(Action::Refuse));
    }

    fn applied(&mut self, applied: Applied, actions: &mut Vec<Action>) {
        self.value_differs |= applied.changed;
        if applied.beyond > 0 {
            let (records, mib) = (self.options.max_records, self.options.max_bytes >> 20);
            let detail = format!("{} instances are beyond {records} records or {mib} MiB", applied.beyond);
            let reason = Refusal::new(RefusalKind::TooLarge, detail);
            let record = format!("set of `{}`", self.query).into();
            self.refused(None, record, reason, actions);
        }
    }

    /// A complete set was read.
    fn fresh(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.state = State::Following;
        self.backoff.works(now);
        if self.staleness.is_pending() {
            // An empty set is an answer too.
            self.value_differs = true;
        }
        if !self.staleness.is_fresh() {
            self.restate(Staleness::Fresh);
        }
        if let Some(line) = self.outage.recovered(now) {
            let instances = Some(self.records.len());
            actions.push(Action::Tell(Told { line, cause: None, retry_in: None, instances }));
        }
    }

    fn failed(&mut self, error: Arc<Error>, now: Instant, actions: &mut Vec<Action>) {
        let delay = self.backoff.failed(error.kind(), &self.options.healing, &mut self.dice, now);
        self.state = State::Resting { until: now + delay };
        self.refusals.abandon();
        actions.push(Action::Unsubscribe);
        let line = self.outage.failed(self.options.log_every, now);
        let instances = (!self.staleness.is_pending()).then(|| self.records.len());
        actions.extend(line.map(|line| {
            let (cause, retry_in) = (Some(Arc::clone(&error)), Some(delay));
            Action::Tell(Told { line, cause, retry_in, instances })
        }));
        let says_the_same = self
            .staleness
            .cause()
            .is_some_and(|cause| cause.kind() == error.kind() && cause.to_string() == error.to_string());
        if says_the_same {
            return;
        }
        let next = match &self.staleness {
            Staleness::Pending { .. } => Staleness::Pending { cause: Some(error) },
            Staleness::Stale { since, age, .. } => {
                Staleness::Stale { since: *since, age: *age, cause: error }
            }
            _ => Staleness::Stale { since: now, age: Duration::ZERO, cause: error },
        };
        self.restate(next);
    }

    fn saw(&mut self, id: &InstanceId, what: Seen, now: Instant) {
        let Some(instance) = self.records.get(id).map(Arc::clone) else { return };
        if self.removals.saw(&instance, what, now) {
            self.value_differs |= self.records.bury(id);
        }
    }

    fn restate(&mut self, staleness: Staleness) {
        self.staleness = staleness;
        self.state_differs = true;
    }

    fn publish(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let value = self.value_differs.then(|| self.records.collect());
        let held = self.records.held();
        actions.push(Action::Publish(Publication { staleness: self.staleness.clone(), value, held }));
        (self.value_differs, self.state_differs) = (false, false);
        self.published = Some(now);
    }
}

#[cfg(test)]
mod tests;
