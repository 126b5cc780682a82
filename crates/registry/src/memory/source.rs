//! The finding side of a memory registry.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{StreamExt, stream};
use meshwork_core::{Change, Changes, Error, Query, Source};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use super::{
    Memory, SILENCE,
    store::{Place, Store},
};

struct Reading {
    store: Arc<Store>,
    query: Query,
    place: Place,
    ready: VecDeque<Change>,
    ticks: watch::Receiver<u64>,
    silent: Option<Instant>,
}

impl Source for Memory {
    fn subscribe(&self, query: &Query) -> Changes {
        let reading = Reading {
            store: Arc::clone(&self.store),
            query: query.clone(),
            place: Place::default(),
            ready: VecDeque::new(),
            ticks: self.store.ticks(),
            silent: None,
        };
        let changes = stream::try_unfold(reading, |mut reading| async {
            let change = reading.next().await?;
            Ok(Some((change, reading)))
        });
        changes.boxed()
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Change, Error> {
        self.query.only(&[])?;
        loop {
            self.ticks.borrow_and_update();
            let faults = self.store.faults();
            if faults.failing {
                return Err(self.fail("the memory registry fails by order"));
            }
            if faults.partitioned {
                let since = *self.silent.get_or_insert_with(Instant::now);
                if time::timeout_at(since + SILENCE, self.ticks.changed()).await.is_err() {
                    return Err(self.fail("the memory registry does not answer by order"));
                }
                continue;
            }
            self.silent = None;
            if let Some(change) = self.ready.pop_front() {
                return Ok(change);
            }
            match self.store.next(&self.query, &mut self.place) {
                Some(told) => {
                    self.ready.extend(told.changes);
                    time::sleep_until(told.at).await;
                }
                // The store lives as long as this reader: its ticks never end.
                None => drop(self.ticks.changed().await),
            }
        }
    }

    fn fail(&self, why: &str) -> Error {
        Error::unavailable(format!("watching `{}`", self.query)).with_source(why)
    }
}
