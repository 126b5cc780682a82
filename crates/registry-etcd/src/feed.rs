//! What stands under a prefix, followed: a tap on the shared watch stream, joined with lists by the rules
//! of `resume.rs`. It bridges one short gap by itself; a longer one ends it with an error.

use std::{collections::VecDeque, future, sync::Arc};

use meshwork_core::{BoxFuture, Error, ErrorChain, ErrorKind};
use tokio::{time, time::Instant};

use crate::{
    errors,
    hub::Hub,
    listing,
    listing::Part,
    random,
    record::{Event, Listing},
    resume::{Follower, Input, Order},
    taps::{Range, Tap, Told},
};

/// What is new under the prefix.
pub(crate) enum News {
    /// This is everything.
    All(Listing),
    /// This happened in one revision.
    Events(Vec<Event>),
}

/// One prefix that is followed.
pub(crate) struct Feed {
    hub: Hub,
    prefix: Box<str>,
    part: Part,
    follower: Follower,
    orders: VecDeque<Order>,
    news: VecDeque<News>,
    tap: Option<Tap>,
    /// Until when it must be live (again).
    deadline: Instant,
    audit: Option<BoxFuture<'static, Result<Listing, Error>>>,
    audit_at: Instant,
}

impl Feed {
    /// Follows `prefix`; lists have the whole records or their keys only.
    pub(crate) fn new(hub: Hub, prefix: Box<str>, part: Part) -> Self {
        let (follower, orders) = Follower::start();
        let now = Instant::now();
        Self {
            audit_at: now + random::around(hub.config.relist_every),
            deadline: now + hub.members.request_timeout(),
            hub,
            prefix,
            part,
            follower,
            orders: orders.into(),
            news: VecDeque::new(),
            tap: None,
            audit: None,
        }
    }

    /// What comes next.
    pub(crate) async fn next(&mut self) -> Result<News, Error> {
        loop {
            if let Some(news) = self.news.pop_front() {
                return Ok(news);
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
                let list = list(self.hub.clone(), self.prefix.clone(), self.part);
                let read = time::timeout_at(self.deadline, list).await;
                return Ok(Some(Input::Listed(read.map_err(|_elapsed| self.overdue())??)));
            }
            Order::Replace(listing) => self.news.push_back(News::All(listing)),
            Order::Apply(events) => self.news.push_back(News::Events(events)),
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
                Told::Cut(cause) => Err(self.refused(&cause).await),
            },
            () = time::sleep_until(self.deadline), if !live => Err(self.overdue()),
            () = time::sleep_until(self.audit_at), if live && self.audit.is_none() => {
                self.audit = Some(Box::pin(list(self.hub.clone(), self.prefix.clone(), self.part)));
                Ok(Input::Auditing)
            }
            read = audited(&mut self.audit) => {
                self.audit = None;
                self.audit_at = Instant::now() + random::around(self.hub.config.relist_every);
                match read {
                    Ok(listing) => Ok(Input::Audited(listing)),
                    // The watch goes on, since etcd judges it at its creation only; what it says can no
                    // longer be verified.
                    Err(error) if error.kind() == ErrorKind::Denied => Err(error),
                    // A list that failed says nothing: the watch has its own signs of life.
                    Err(_) => Ok(Input::Unaudited),
                }
            }
        }
    }

    /// Why there is no watch. Older releases of etcd say of an old token that it permits nothing: what is
    /// denied is asked for by a list before it is believed, which sees to another token.
    async fn refused(&mut self, cause: &Arc<Error>) -> Error {
        let context = format!("watching {}", self.prefix);
        // Where there is no stream at all, it is not this watch that is denied.
        if cause.kind() != ErrorKind::Denied || self.hub.taps.absent().is_some() {
            return errors::again(context, cause);
        }
        let list = list(self.hub.clone(), self.prefix.clone(), Part::Keys);
        match time::timeout_at(self.deadline, list).await {
            Ok(Ok(_)) => Error::unavailable(format!("{context}: it was denied, though reading is not")),
            Ok(Err(error)) => Error::new(error.kind(), context).with_source(error),
            Err(_elapsed) => self.overdue(),
        }
    }

    fn overdue(&self) -> Error {
        let patience = self.hub.members.request_timeout();
        let context = format!("watching {}: no list and watch within {patience:?}", self.prefix);
        match self.hub.taps.absent() {
            Some(cause) => errors::again(context, &cause),
            None => Error::unavailable(context),
        }
    }
}

async fn list(hub: Hub, prefix: Box<str>, part: Part) -> Result<Listing, Error> {
    let _turn = hub.lists.acquire().await;
    listing::read(&hub.members, &prefix, part).await
}

async fn audited(audit: &mut Option<BoxFuture<'static, Result<Listing, Error>>>) -> Result<Listing, Error> {
    match audit {
        Some(read) => read.await,
        None => future::pending().await,
    }
}
