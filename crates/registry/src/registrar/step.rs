//! The decisions of the registrar: what to do next for one registration.
//!
//! No runtime, no clock, no announcer: the time is an argument, the randomness a seeded field. At every
//! moment there is exactly one [`Work`] to do; its end is an [`Event`].

use std::{sync::Arc, time::Duration};

use meshwork_core::{Departure, Error, ErrorKind, Instance, InstanceId, RegistrationState, Status, Wish};
use tokio::time::Instant;

use crate::{Dice, DriverOptions, Line, backoff::widened, outage::Outage};

/// Between two attempts to mark a record while leaving.
const MARK_AGAIN: Duration = Duration::from_millis(100);
/// The widest window after losses of our own that follow each other.
const OWN_LOSS_CAP: Duration = Duration::from_millis(1500);
/// A claim that was held this long was a success, whatever ended it.
const STEADY: Duration = Duration::from_secs(10);
/// The least time between two attempts that a changed wish brings forward.
const WISH_AGAIN: Duration = Duration::from_secs(1);

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Work {
    /// Claim this record with whatever claim is noted. A departure cuts it.
    Claim(Arc<Instance>),
    /// Hold the claim. Any change of the wish interrupts it.
    Hold,
    /// Bring this record to the registry. A departure cuts it.
    Update(Arc<Instance>),
    /// Bring this last record, which says `leaving`, within this time. Nothing interrupts it.
    Mark(Arc<Instance>, Duration),
    /// Release the noted claim within this time. Nothing interrupts it.
    Release(Duration),
    /// Wait until then. Any change of the wish interrupts it.
    Rest(Instant),
    /// Nothing, for ever.
    End,
}

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The wish is now this one.
    Wished(Wish),
    /// The claim, update, mark or release ended, by itself or by its time-out.
    Done {
        /// How it ended.
        result: Result<(), Arc<Error>>,
        /// Whether a claim is noted now.
        noted: bool,
    },
    /// A claim or an update was cut by a departure.
    Cut {
        /// Whether a claim is noted now.
        noted: bool,
    },
    /// The claim is lost, or its record differs.
    Lost {
        /// What the announcer said.
        error: Arc<Error>,
        /// Whether the registry as a whole was lost with it.
        registry_away: bool,
    },
    /// The process stood still for this long while it held the claim.
    Paused(Duration),
    /// The rest is over.
    Due,
}

/// What is to be told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Action {
    /// Publish this state.
    Publish(RegistrationState),
    /// The wish has this id from now on.
    Rename(InstanceId),
    /// Write a log line.
    Tell(Told),
}

/// What a log line tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Told {
    /// A moment of an outage.
    Outage {
        /// Which moment.
        line: Line,
        /// What failed last; `None` at the return.
        cause: Option<Arc<Error>>,
        /// When it is tried again.
        retry_in: Option<Duration>,
        /// Whether it was announced before.
        was_live: bool,
    },
    /// Announced for the first time.
    Announced,
    /// Another process uses our id: it was given up for a new one. An alarm.
    Renamed {
        /// The id given up.
        from: InstanceId,
        /// What the announcer said.
        cause: Arc<Error>,
    },
    /// The wished record is not one that could be written; the one before stays. An alarm.
    Rejected(Arc<Error>),
    /// The record could not be marked before it went.
    Unmarked(Arc<Error>),
    /// It left.
    Left(Result<(), Arc<Error>>),
}

#[derive(Clone, Debug)]
enum State {
    /// With this record.
    Claiming(Arc<Instance>),
    /// This record stands, since then.
    Holding(Arc<Instance>, Instant),
    /// With the first record, over the second one, which stands since then.
    Updating(Arc<Instance>, Arc<Instance>, Instant),
    /// Until the next claim; whether a change of the wish brings it forward; when the last one ended.
    Resting {
        until: Instant,
        hurries: bool,
        since: Instant,
    },
    /// Our id is another's: ending what we noted under it.
    Evicting {
        cause: Arc<Error>,
    },
    /// Leaving: the record is to say so, at the latest then.
    Marking {
        mark_until: Instant,
        until: Instant,
    },
    /// Leaving: a pause between two attempts to mark.
    Unmarked {
        again: Instant,
        mark_until: Instant,
        until: Instant,
    },
    /// Leaving: ending what is noted, at the latest then.
    Releasing {
        until: Instant,
    },
    Gone,
}

/// The state of one registration.
#[derive(Debug)]
pub struct Registrar {
    options: DriverOptions,
    dice: Dice,
    wish: Wish,
    state: State,
    noted: bool,
    published: RegistrationState,
    was_live: bool,
    /// Whether the last claim was made in full. Else a request of it may be on its way, and a mark could
    /// arrive after the release and be taken by what that request makes.
    stands: bool,
    /// Failed claims since the last success.
    failures: u32,
    /// Losses that followed each other.
    losses: u32,
    /// Conflicts that followed each other.
    conflicts: u32,
    outage: Outage,
    /// A wished record that cannot be written, and the one that stands instead.
    rejected: Option<(Arc<Instance>, Arc<Instance>)>,
    /// An id given up whose claim may not have ended.
    orphan: Option<Arc<Error>>,
}

impl Registrar {
    /// A registration of which nothing is announced yet. Its first work is to claim.
    pub fn new(wish: Wish, options: DriverOptions, dice: Dice, now: Instant) -> Self {
        let leaves = wish.departure.is_some();
        let mut registrar = Self {
            options,
            dice,
            state: State::Claiming(Arc::clone(&wish.instance)),
            wish,
            noted: false,
            published: RegistrationState::Pending { cause: None },
            was_live: false,
            stands: false,
            failures: 0,
            losses: 0,
            conflicts: 0,
            outage: Outage::new(),
            rejected: None,
            orphan: None,
        };
        if leaves {
            registrar.state = State::Resting { until: now, hurries: false, since: now };
        }
        registrar
    }

    /// What is to be done now.
    pub fn work(&self, now: Instant) -> Work {
        match &self.state {
            State::Claiming(instance) => Work::Claim(Arc::clone(instance)),
            State::Holding(..) => Work::Hold,
            State::Updating(instance, ..) => Work::Update(Arc::clone(instance)),
            State::Resting { until, .. } => Work::Rest(*until),
            State::Evicting { .. } => Work::Release(self.options.leave_within),
            State::Marking { mark_until, .. } => {
                let mut last = (*self.wish.instance).clone();
                last.status = Status::Leaving;
                Work::Mark(Arc::new(last), mark_until.saturating_duration_since(now))
            }
            State::Unmarked { again, .. } => Work::Rest(*again),
            State::Releasing { until } => Work::Release(until.saturating_duration_since(now)),
            State::Gone => Work::End,
        }
    }

    /// Whether a claim is noted, as the machine knows it.
    pub fn has_noted(&self) -> bool {
        self.noted
    }

    /// The record as wished now.
    pub fn wished(&self) -> &Arc<Instance> {
        &self.wish.instance
    }

    /// Takes one event; what is to be told is added to `actions`, in order.
    pub fn step(&mut self, event: Event, now: Instant, actions: &mut Vec<Action>) {
        match event {
            Event::Wished(wish) => self.wished_anew(wish, now, actions),
            Event::Done { result, noted } => {
                self.noted = noted;
                self.done(result, now, actions);
            }
            Event::Cut { noted } => {
                self.noted = noted;
                self.leave_if_wished(now, actions);
            }
            Event::Lost { error, registry_away } => self.lost(&error, registry_away, now, actions),
            Event::Paused(gap) => self.paused(gap, now, actions),
            Event::Due => self.due(now, actions),
        }
    }

    fn wished_anew(&mut self, wish: Wish, now: Instant, actions: &mut Vec<Action>) {
        // A departure is never taken back.
        let departure = self.wish.departure.or(wish.departure);
        let differs = *wish.instance != *self.wish.instance;
        self.wish = Wish { departure, ..wish };
        match &self.state {
            State::Holding(..) | State::Resting { .. } if departure.is_some() => {
                self.leave_if_wished(now, actions);
            }
            State::Holding(written, since) if **written != **self.writable() => {
                let (written, since) = (Arc::clone(written), *since);
                self.state = State::Updating(Arc::clone(self.writable()), written, since);
            }
            State::Resting { until, hurries: true, since } if differs => {
                let (until, since) = ((*until).min((*since + WISH_AGAIN).max(now)), *since);
                self.state = State::Resting { until, hurries: true, since };
            }
            _ => {}
        }
    }

    fn done(&mut self, result: Result<(), Arc<Error>>, now: Instant, actions: &mut Vec<Action>) {
        match (self.state.clone(), result) {
            (State::Claiming(written), Ok(())) => self.stands(written, now, now, actions),
            (State::Updating(written, _, since), Ok(())) => self.stands(written, since, now, actions),
            (State::Claiming(_) | State::Updating(..), Err(error)) if error.kind() == ErrorKind::Conflict => {
                self.conflict(&error, now, actions);
            }
            (State::Claiming(_), Err(error)) => self.not_claimed(error, now, actions),
            (State::Updating(rejected, written, since), Err(error)) if error.kind() == ErrorKind::Invalid => {
                actions.push(Action::Tell(Told::Rejected(error)));
                self.rejected = Some((rejected, Arc::clone(&written)));
                self.state = State::Holding(written, since);
                self.wished_anew(self.wish.clone(), now, actions);
            }
            // The record stands as it was, or not: only another claim can tell.
            (State::Updating(..), Err(error)) => self.lost(&error, false, now, actions),
            (State::Evicting { cause }, result) => self.evicted(result, &cause, now, actions),
            (State::Marking { until, .. }, Ok(())) => self.state = State::Releasing { until },
            (State::Marking { mark_until, until }, Err(error)) => {
                let again = now + MARK_AGAIN;
                if again < mark_until && error.kind().is_transient() {
                    self.state = State::Unmarked { again, mark_until, until };
                } else {
                    actions.push(Action::Tell(Told::Unmarked(error)));
                    self.state = State::Releasing { until };
                }
            }
            (State::Releasing { .. }, result) => self.gone(result, actions),
            (State::Holding(..) | State::Resting { .. } | State::Unmarked { .. } | State::Gone, _) => {}
        }
    }

    fn due(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.state {
            State::Resting { .. } if self.wish.departure.is_some() => self.leave_if_wished(now, actions),
            State::Resting { until, .. } if now >= until => self.claim(),
            State::Unmarked { again, mark_until, until } if now >= again => {
                self.state = State::Marking { mark_until, until };
            }
            _ => {}
        }
    }

    fn claim(&mut self) {
        self.stands = false;
        self.state = State::Claiming(Arc::clone(self.writable()));
    }

    /// The wished record, or the last good one when that was rejected.
    fn writable(&self) -> &Arc<Instance> {
        match &self.rejected {
            Some((rejected, good)) if **rejected == *self.wish.instance => good,
            _ => &self.wish.instance,
        }
    }

    /// A record stands, since then: hold it, or write the newer one that was wished meanwhile.
    fn stands(&mut self, written: Arc<Instance>, since: Instant, now: Instant, actions: &mut Vec<Action>) {
        self.failures = 0;
        if let Some(line) = self.outage.recovered(now) {
            let was_live = self.was_live;
            actions.push(Action::Tell(Told::Outage { line, cause: None, retry_in: None, was_live }));
        } else if !self.was_live {
            actions.push(Action::Tell(Told::Announced));
        }
        self.was_live = true;
        self.stands = true;
        if !matches!(self.published, RegistrationState::Live) {
            self.publish(RegistrationState::Live, actions);
        }
        self.state = State::Holding(written, since);
        self.wished_anew(self.wish.clone(), now, actions);
    }

    fn not_claimed(&mut self, error: Arc<Error>, now: Instant, actions: &mut Vec<Action>) {
        let healing = &self.options.healing;
        let is_transient = error.kind().is_transient();
        let delay = if !is_transient {
            healing.slow + self.dice.within(healing.first)
        } else if self.was_live {
            // The whole fleet may be here: spread over half the time that steady keep-alives take.
            self.dice.within(healing.ttl / 2)
        } else {
            self.dice.within(widened(healing.first, self.failures, healing.ttl / 2))
        };
        self.failures = self.failures.saturating_add(1);
        self.rest(delay, !is_transient, now);
        self.fail(error, delay, now, actions);
        self.leave_if_wished(now, actions);
    }

    fn lost(&mut self, error: &Arc<Error>, registry_away: bool, now: Instant, actions: &mut Vec<Action>) {
        let (State::Holding(_, since) | State::Updating(_, _, since)) = self.state else { return };
        if now.duration_since(since) >= STEADY {
            (self.losses, self.conflicts) = (0, 0);
        }
        if error.kind() == ErrorKind::Conflict {
            return self.conflict(error, now, actions);
        }
        let healing = &self.options.healing;
        let delay = if !error.kind().is_transient() {
            healing.slow + self.dice.within(healing.first)
        } else if registry_away {
            self.dice.within(healing.ttl / 2)
        } else {
            self.dice.within(widened(healing.own_loss, self.losses, OWN_LOSS_CAP.max(healing.own_loss)))
        };
        self.losses = self.losses.saturating_add(1);
        self.rest(delay, !error.kind().is_transient(), now);
        self.fail(Arc::clone(error), delay, now, actions);
        self.leave_if_wished(now, actions);
    }

    fn paused(&mut self, gap: Duration, now: Instant, actions: &mut Vec<Action>) {
        if !matches!(self.state, State::Holding(..)) {
            return;
        }
        // The claim may have run out meanwhile. It is not called live before it was claimed anew, which
        // takes it over if it stands.
        let cause = Arc::new(Error::unavailable(format!("process stood still for {gap:.1?}")));
        self.publish(RegistrationState::Lost { since: now, cause }, actions);
        self.claim();
    }

    fn conflict(&mut self, cause: &Arc<Error>, now: Instant, actions: &mut Vec<Action>) {
        self.state = State::Evicting { cause: Arc::clone(cause) };
        self.state_of_failure(Arc::clone(cause), now, actions);
        if !self.noted {
            self.evicted(Ok(()), cause, now, actions);
        }
    }

    /// What was noted under the old id is ended, or at least will not be kept: take a new one.
    fn evicted(
        &mut self,
        result: Result<(), Arc<Error>>,
        cause: &Arc<Error>,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        self.noted = false;
        self.orphan = result.err().or(self.orphan.take());
        let from = self.wish.instance.id.clone();
        let mut renamed = (*self.wish.instance).clone();
        renamed.id = InstanceId::generate(&renamed.service);
        actions.push(Action::Rename(renamed.id.clone()));
        self.wish.instance = Arc::new(renamed);
        self.rejected = None;
        actions.push(Action::Tell(Told::Renamed { from, cause: Arc::clone(cause) }));
        // Once is an accident; again and again must not become a loop.
        let delay = if self.conflicts == 0 { Duration::ZERO } else { self.options.healing.slow };
        self.conflicts = self.conflicts.saturating_add(1);
        self.rest(delay, false, now);
        self.leave_if_wished(now, actions);
    }

    fn leave_if_wished(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let Some(departure) = self.wish.departure else { return };
        let until = now + self.options.leave_within;
        if !self.noted {
            let outcome = self.orphan.clone().map_or(Ok(()), Err);
            return self.gone(outcome, actions);
        }
        self.state = match departure {
            // Half of the time is the release's: it is what ends the record.
            Departure::Marked if self.stands => {
                State::Marking { mark_until: now + self.options.leave_within / 2, until }
            }
            _ => State::Releasing { until },
        };
    }

    fn gone(&mut self, outcome: Result<(), Arc<Error>>, actions: &mut Vec<Action>) {
        let outcome = outcome.and_then(|()| self.orphan.clone().map_or(Ok(()), Err));
        self.noted = false;
        self.state = State::Gone;
        actions.push(Action::Tell(Told::Left(outcome.clone())));
        self.publish(RegistrationState::Gone { outcome }, actions);
    }

    fn rest(&mut self, delay: Duration, hurries: bool, now: Instant) {
        self.state = State::Resting { until: now + delay, hurries, since: now };
    }

    /// Publishes and tells a failure that is tried again after `delay`.
    fn fail(&mut self, error: Arc<Error>, delay: Duration, now: Instant, actions: &mut Vec<Action>) {
        let line = self.outage.failed(self.options.log_every, now);
        self.state_of_failure(Arc::clone(&error), now, actions);
        actions.extend(line.map(|line| {
            let (cause, retry_in, was_live) = (Some(error), Some(delay), self.was_live);
            Action::Tell(Told::Outage { line, cause, retry_in, was_live })
        }));
    }

    fn state_of_failure(&mut self, cause: Arc<Error>, now: Instant, actions: &mut Vec<Action>) {
        let state = match &self.published {
            RegistrationState::Lost { since, .. } => RegistrationState::Lost { since: *since, cause },
            _ if self.was_live => {
                let since = self.outage.since().unwrap_or(now);
                RegistrationState::Lost { since, cause }
            }
            _ => RegistrationState::Pending { cause: Some(cause) },
        };
        self.publish(state, actions);
    }

    fn publish(&mut self, state: RegistrationState, actions: &mut Vec<Action>) {
        self.published = state.clone();
        actions.push(Action::Publish(state));
    }
}

#[cfg(test)]
mod tests;
