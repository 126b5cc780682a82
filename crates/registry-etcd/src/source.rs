//! The finding side: what is new under the prefix of a query, as changes of its instances.

use std::{collections::VecDeque, future};

use futures_util::{StreamExt, stream};
use meshwork_core::{Change, Changes, Error, Query, Source};

use crate::{
    feed::{Feed, News},
    hub::Hub,
    listing::Part,
};

impl Source for Hub {
    fn subscribe(&self, query: &Query) -> Changes {
        match self.keys.prefix(query) {
            Err(error) => stream::once(future::ready(Err(error))).boxed(),
            Ok(prefix) => {
                let feed = Feed::new(self.clone(), prefix.into(), Part::Records);
                let subscription = Subscription { hub: self.clone(), feed, told: VecDeque::new() };
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
    feed: Feed,
    told: VecDeque<Change>,
}

impl Subscription {
    async fn next(&mut self) -> Result<Change, Error> {
        loop {
            if let Some(change) = self.told.pop_front() {
                return Ok(change);
            }
            match self.feed.next().await? {
                News::All(listing) => self.told.extend(self.hub.keys.set(&listing)),
                News::Events(events) => self.told.extend(self.hub.keys.delta(&events)),
            }
        }
    }
}
