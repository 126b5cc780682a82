//! The finding side: one subscription is a tap on the shared watch stream, joined with lists by the rules
//! of `resume.rs`. It bridges one short gap by itself; a longer one ends it with an error.

use std::{collections::VecDeque, future};

use futures_util::{StreamExt, stream};
use meshwork_core::{BoxFuture, Change, Changes, Error, ErrorChain, Query, Source};
use tokio::{time, time::Instant};

use crate::{
    errors,
    hub::Hub,
    listing, random,
    record::Listing,
    resume::{Follower, Input, Order},
    taps::{Range, Tap, Told},
};

impl Source for Hub {
    fn subscribe(&self, query: &Query) -> Changes {
        match self.keys.prefix(query) {
            Err(error) => stream::once(future::ready(Err(error))).boxed(),
            Ok(prefix) => {
                let subscription = Subscription::new(self.clone(), prefix.into());
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
    hub: Hub,
    prefix: Box<str>,
    follower: Follower,
    orders: VecDeque<Order>,
    told: VecDeque<Change>,
    tap: Option<Tap>,
    /// Until when it must be live (again).
    deadline: Instant,
    audit: Option<BoxFuture<'static, Result<Listing, Error>>>,
    audit_at: Instant,
}

impl Subscription {
    fn new(hub: Hub, prefix: Box<str>) -> Self {
        let (follower, orders) = Follower::start();
        let now = Instant::now();
        Self {
            audit_at: now + random::around(hub.config.relist_every),
            deadline: now + hub.members.request_timeout(),
            hub,
            prefix,
            follower,
            orders: orders.into(),
            told: VecDeque::new(),
            tap: None,
            audit: None,
        }
    }

    async fn next(&mut self) -> Result<Change, Error> {
        loop {
            if let Some(change) = self.told.pop_front() {
                return Ok(change);
            }
            let input = match self.orders.pop_front() {
                Some(order) => self.obey(order).await?,
                None => Some(self.input().await?),
            };
            if let Some(input) = input {
                let was_live = self.follower.is_live();
                self.orders.extend(self.follower.step(input));
                if was_live && !self.follower.is_live() {
                    // A gap: what is bridged within one request's time is not worth an error.
                    self.audit = None;
                    self.deadline = Instant::now() + self.hub.members.request_timeout();
                }
            }
        }
    }

    async fn obey(&mut self, order: Order) -> Result<Option<Input>, Error> {
        match order {
            Order::Watch { from } => {
                tracing::debug!(prefix = %self.prefix, from, "watch opened");
                // The old one goes first: a member never serves two watches for one subscription.
                self.tap = None;
                self.tap = Some(self.hub.taps.open(Range::Prefix(self.prefix.clone()), from));
            }
            Order::List => {
                tracing::debug!(prefix = %self.prefix, "everything is read");
                let list = list(self.hub.clone(), self.prefix.clone());
                let read = time::timeout_at(self.deadline, list).await;
                return Ok(Some(Input::Listed(read.map_err(|_elapsed| self.overdue())??)));
            }
            Order::Replace(listing) => self.told.extend(self.hub.keys.set(&listing)),
            Order::Apply(events) => self.told.extend(self.hub.keys.delta(&events)),
            Order::Distrust => {
                tracing::warn!(prefix = %self.prefix, "the watch had missed a change: everything is read anew");
            }
        }
        Ok(None)
    }

    async fn input(&mut self) -> Result<Input, Error> {
        let live = self.follower.is_live();
        let Some(tap) = &mut self.tap else { return Ok(Input::Cut) };
        tokio::select! {
            told = tap.next() => match told {
                Told::Created { revision } => Ok(Input::Created { revision }),
                Told::Events(events) => Ok(Input::Events(events)),
                Told::Progress { revision } => Ok(Input::Progress { revision }),
                Told::Compacted => Ok(Input::Compacted),
                Told::Cut(cause) if live => {
                    tracing::debug!(prefix = %self.prefix, cause = %ErrorChain(&*cause), "watch cut");
                    Ok(Input::Cut)
                }
                Told::Cut(cause) => Err(errors::again(format!("watching {}", self.prefix), &cause)),
            },
            () = time::sleep_until(self.deadline), if !live => Err(self.overdue()),
            () = time::sleep_until(self.audit_at), if live && self.audit.is_none() => {
                self.audit = Some(Box::pin(list(self.hub.clone(), self.prefix.clone())));
                Ok(Input::Auditing)
            }
            read = audited(&mut self.audit) => {
                self.audit = None;
                self.audit_at = Instant::now() + random::around(self.hub.config.relist_every);
                // A list that failed says nothing: the watch has its own signs of life.
                Ok(read.map_or(Input::Unaudited, Input::Audited))
            }
        }
    }

    fn overdue(&self) -> Error {
        Error::unavailable(format!(
            "watching {}: no list and watch within {:?}",
            self.prefix,
            self.hub.members.request_timeout()
        ))
    }
}

async fn list(hub: Hub, prefix: Box<str>) -> Result<Listing, Error> {
    let _turn = hub.lists.acquire().await;
    listing::read(&hub.members, &prefix).await
}

async fn audited(audit: &mut Option<BoxFuture<'static, Result<Listing, Error>>>) -> Result<Listing, Error> {
    match audit {
        Some(read) => read.await,
        None => future::pending().await,
    }
}
