//! The finding side: the lanes of one query, joined by the rules of `places.rs`.

use std::{collections::VecDeque, future, sync::Arc, time::Duration};

use futures_util::{
    StreamExt,
    stream::{self, BoxStream, SelectAll},
};
use meshwork_core::{Change, Changes, Error, Query, Source};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::{
    asked::Asked,
    errors,
    hub::Hub,
    jitter,
    lane::Lane,
    places::{Places, Say},
    reader::Reading,
};

/// Between two attempts of a lane while others go on.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl Source for Hub {
    fn subscribe(&self, query: &Query) -> Changes {
        match Asked::of(query, self.agent.config(), &self.env) {
            Err(error) => stream::once(future::ready(Err(error))).boxed(),
            Ok(asked) => {
                let subscription = Subscription::new(self, query, Arc::new(asked));
                let steps = stream::unfold(Some(subscription), |subscription| async {
                    let mut subscription = subscription?;
                    match subscription.next().await {
                        Ok(change) => Some((Ok(change), Some(subscription))),
                        Err(error) => Some((Err(error), None)),
                    }
                });
                steps.boxed()
            }
        }
    }
}

struct Subscription {
    watching: String,
    lanes: SelectAll<BoxStream<'static, (usize, Result<Reading, Error>)>>,
    places: Places,
    cut: watch::Receiver<Option<Arc<Error>>>,
    told: VecDeque<Change>,
}

impl Subscription {
    fn new(hub: &Hub, query: &Query, asked: Arc<Asked>) -> Self {
        let mut lanes = SelectAll::new();
        for (rank, datacenter) in asked.datacenters.iter().enumerate() {
            for name in &asked.names {
                let (agent, service) = (Arc::clone(&hub.agent), query.service().clone());
                // The first one is taken as near: only further ones are reached by their wide addresses.
                let lane = Lane::new(agent, Arc::clone(&asked), service, name, datacenter.clone(), rank > 0);
                lanes.push(answers(lane, lanes.len()));
            }
        }
        Self {
            watching: format!("watching `{query}`"),
            places: Places::new(asked.datacenters.len(), asked.names.len()),
            lanes,
            cut: hub.cut.subscribe(),
            told: VecDeque::new(),
        }
    }

    async fn next(&mut self) -> Result<Change, Error> {
        loop {
            if let Some(change) = self.told.pop_front() {
                return Ok(change);
            }
            let due = self.places.due(Instant::now());
            let say = tokio::select! {
                Some((place, answer)) = self.lanes.next() => match answer {
                    Ok(reading) => self.places.answered(place, reading, Instant::now()),
                    Err(error) => self.places.failed(place, Arc::new(error), Instant::now()),
                },
                error = given_up(&mut self.cut) => return Err(errors::again(self.watching.clone(), &error)),
                () = until(due) => self.places.look(Instant::now()),
            };
            match say {
                Say::Nothing => {}
                Say::Changes(changes) => self.told.extend(changes),
                Say::Failed(error) => return Err(errors::echo(&error)),
            }
        }
    }
}

/// The answers of one lane, for ever: after an error it starts over, later each time.
fn answers(lane: Lane, place: usize) -> BoxStream<'static, (usize, Result<Reading, Error>)> {
    let steps = stream::unfold((lane, Duration::ZERO), move |(mut lane, pause)| async move {
        if !pause.is_zero() {
            time::sleep(jitter::around(pause)).await;
        }
        match lane.next().await {
            Ok(reading) => Some(((place, Ok(reading)), (lane, Duration::ZERO))),
            Err(error) => {
                lane.start_over();
                let next = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                Some(((place, Err(error)), (lane, next)))
            }
        }
    });
    steps.boxed()
}

/// Waits for the next time that all queries are given up.
async fn given_up(cut: &mut watch::Receiver<Option<Arc<Error>>>) -> Arc<Error> {
    while cut.changed().await.is_ok() {
        if let Some(error) = &*cut.borrow_and_update() {
            return Arc::clone(error);
        }
    }
    future::pending().await
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => future::pending().await,
    }
}
