//! Does what the reflector's state machine says: subscribes, publishes, waits, logs.

use std::{future, pin::Pin, sync::Arc, time::Duration};

use futures_util::StreamExt;
use meshwork_core::{Change, Changes, Error, ErrorChain, Query, Source, Staleness, Task, Watch};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::{
    Action, Event, Publication, Reflector, Told,
    topic::{Observations, Topic, Topics},
};
use crate::{Line, engine::Engine, pilot::Flight, shield::shield, whereabouts};

/// A watch on what `query` finds.
pub(crate) fn watch<B: Source>(engine: &Arc<Engine<B>>, topics: &Arc<Topics>, query: &Query) -> Watch {
    topics.watch(query, &engine.stats, |topic, observations| {
        let name = format!("view of {query}");
        let shell = Shell::new(Arc::clone(engine), Arc::clone(topics), topic);
        let kept = shell.run(observations).instrument(whereabouts::current());
        Task::new(name, CancellationToken::new(), tokio::spawn(kept))
    })
}

struct Shell<B: Source> {
    engine: Arc<Engine<B>>,
    topics: Arc<Topics>,
    topic: Arc<Topic>,
    feed: Feed,
    flight: Option<Arc<Flight>>,
    ended: bool,
}

impl<B: Source> Shell<B> {
    fn new(engine: Arc<Engine<B>>, topics: Arc<Topics>, topic: Arc<Topic>) -> Self {
        engine.stats.subscriptions.add(1);
        Self { engine, topics, topic, feed: Feed::None, flight: None, ended: false }
    }

    async fn run(mut self, mut observations: Observations) {
        let (options, dice) = (self.engine.options.clone(), self.engine.dice());
        let mut reflector = Reflector::new(self.topic.query.clone(), options, dice, Instant::now());
        let mut actions = Vec::new();
        while !self.ended {
            let deadline = reflector.deadline();
            let event = tokio::select! {
                // In this order, so that a source which never pauses cannot starve the rest.
                biased;
                () = until(deadline) => Event::Due,
                () = self.topic.turned.notified() => Event::Watched(self.topic.is_watched()),
                () = self.engine.abandoned.cancelled(), if !self.topic.is_watched() => {
                    self.topics.retire(&self.topic);
                    return;
                }
                Some((id, what)) = observations.recv() => Event::Saw(id, what),
                event = self.feed.next() => event,
            };
            match &event {
                Event::Changed { change: Change::Set(_), .. } => self.engine.stats.sets.add(1),
                Event::Changed { change: Change::Delta { .. }, .. } => self.engine.stats.deltas.add(1),
                _ => {}
            }
            let now = Instant::now();
            reflector.step(event, now, &mut actions);
            for action in actions.drain(..) {
                self.act(action);
            }
            if self.ended && !self.topics.retire(&self.topic) {
                self.ended = false;
                reflector.step(Event::Watched(true), now, &mut actions);
            }
        }
    }

    fn act(&mut self, action: Action) {
        let stats = &self.engine.stats;
        match action {
            Action::Subscribe { epoch } => {
                stats.subscribed.add(1);
                self.flight = Some(self.engine.engage());
                let changes = self.engine.backend.subscribe(&self.topic.query);
                let list_timeout = self.engine.options.list_timeout;
                let query = self.topic.query.clone();
                self.feed = Feed::open(epoch, query, changes, Arc::clone(&self.engine.lists), list_timeout);
            }
            Action::Unsubscribe => {
                stats.subscriptions_lost.add(1);
                self.feed = Feed::None;
            }
            Action::Publish(Publication { staleness, value: Some(value), held }) => {
                stats.views.add(1);
                self.topic.publisher.publish(staleness, value, held);
            }
            Action::Publish(Publication { staleness, value: None, .. }) => {
                stats.views.add(1);
                self.topic.publisher.restate(staleness);
            }
            Action::Refuse(record) => {
                tracing::debug!(
                    service = %record.query, record = %record.record, reason = %record.reason,
                    "record of the registry was not taken"
                );
                stats.refuse(record);
            }
            Action::Tell(told) => tell(&self.topic.query, &told),
            Action::End => self.ended = true,
        }
    }
}

impl<B: Source> Drop for Shell<B> {
    fn drop(&mut self) {
        self.engine.stats.subscriptions.less(1);
        if self.ended {
            return;
        }
        // The runtime ended under it: whoever still watches must not take the last view for the truth.
        let cause =
            Arc::new(Error::unavailable(format!("runtime that watched `{}` ended", self.topic.query)));
        let staleness = match self.topic.publisher.latest().staleness() {
            Staleness::Pending { .. } => Staleness::Pending { cause: Some(cause) },
            Staleness::Stale { since, age, .. } => Staleness::Stale { since: *since, age: *age, cause },
            _ => Staleness::Stale { since: Instant::now(), age: Duration::ZERO, cause },
        };
        self.topic.publisher.restate(staleness);
    }
}

/// The subscription there is.
enum Feed {
    None,
    Open { epoch: u64, query: Query, changes: Changes, turn: Turn },
}

/// Where a subscription stands with its first set.
enum Turn {
    /// Others read theirs.
    Waiting(Pin<Box<dyn Future<Output = OwnedSemaphorePermit> + Send>>, Duration),
    /// It reads, until then at the latest.
    Reading(#[expect(dead_code, reason = "held until the first set was read")] OwnedSemaphorePermit, Instant),
    /// It was read.
    Done,
}

impl Feed {
    fn open(
        epoch: u64,
        query: Query,
        changes: Changes,
        lists: Arc<Semaphore>,
        list_timeout: Duration,
    ) -> Self {
        let turn = Box::pin(async move {
            match lists.acquire_owned().await {
                Ok(permit) => permit,
                Err(_closed) => future::pending().await,
            }
        });
        Self::Open { epoch, query, changes, turn: Turn::Waiting(turn, list_timeout) }
    }

    /// The next event of the subscription; never, without one.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn next(&mut self) -> Event {
        let Self::Open { epoch, query, changes, turn } = self else { return future::pending().await };
        let epoch = *epoch;
        if let Turn::Waiting(permit, list_timeout) = turn {
            let permit = permit.as_mut().await;
            *turn = Turn::Reading(permit, Instant::now() + *list_timeout);
        }
        let told = shield(changes.next(), || format!("watching `{query}`"));
        let item = match turn {
            Turn::Reading(_, deadline) => match time::timeout_at(*deadline, told).await {
                Ok(told) => told.unwrap_or_else(|panicked| Some(Err(panicked))),
                Err(_elapsed) => {
                    let text = format!("listing `{query}`: no complete answer in time");
                    Some(Err(Error::unavailable(text)))
                }
            },
            _ => told.await.unwrap_or_else(|panicked| Some(Err(panicked))),
        };
        match item {
            Some(Ok(change)) => {
                if matches!(change, Change::Set(_)) {
                    *turn = Turn::Done;
                }
                Event::Changed { epoch, change }
            }
            Some(Err(error)) => Event::Failed { epoch, error: Arc::new(error) },
            None => {
                let error = Error::unavailable(format!("watching `{query}`: the subscription ended"));
                Event::Failed { epoch, error: Arc::new(error) }
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => future::pending().await,
    }
}

fn tell(query: &Query, told: &Told) {
    let Told { line, cause, retry_in, instances } = told;
    let error = cause.as_deref().map(|cause| ErrorChain(cause).to_string()).unwrap_or_default();
    let is_alarm = cause.as_deref().is_some_and(|cause| !cause.kind().is_transient());
    let retry_in = retry_in.unwrap_or_default();
    match (line, instances) {
        (Line::Lost, Some(instances)) if is_alarm => {
            tracing::error!(service = %query, instances, ?retry_in, %error, "view is stale: calls go on to the last known instances");
        }
        (Line::Lost, Some(instances)) => {
            tracing::warn!(service = %query, instances, ?retry_in, %error, "view is stale: calls go on to the last known instances");
        }
        (Line::Lost, None) if is_alarm => {
            tracing::error!(service = %query, ?retry_in, %error, "no instance is known yet: calls wait");
        }
        (Line::Lost, None) => {
            tracing::warn!(service = %query, ?retry_in, %error, "no instance is known yet: calls wait");
        }
        (Line::Still { since }, Some(instances)) => {
            tracing::info!(service = %query, ?since, instances, ?retry_in, %error, "view is still stale");
        }
        (Line::Still { since }, None) => {
            tracing::info!(service = %query, ?since, ?retry_in, %error, "still no instance is known");
        }
        (Line::Back { after }, _) => {
            tracing::info!(service = %query, ?after, instances, "view is fresh again");
        }
    }
}
