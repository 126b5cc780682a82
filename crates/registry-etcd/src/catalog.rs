//! The names of all services of our environment, from the keys under its prefix, while anybody watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use meshwork_core::{Drive, Error, ServiceName};
use meshwork_registry::catalog::{CatalogWriter, SharedCatalog};
use tokio::{time, time::Instant};

use crate::{
    feed::{Feed, News},
    hub::Hub,
    keys::Keys,
    listing::Part,
    random,
    record::Event,
};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Lists the services that have a record. It shares connection and watch stream with everything else of its
/// backend; each change of any record of the environment passes by, so it is for consoles and gateways.
pub(crate) fn services(hub: Hub) -> SharedCatalog {
    SharedCatalog::new("etcd catalog", move |writer| follow(hub.clone(), writer))
}

/// Never returns.
async fn follow(hub: Hub, writer: CatalogWriter) {
    // Two loops, so that what fails in reading does not end a drive that others have come to rely on.
    tokio::join!(drive(&hub), read_on(&hub, &writer));
}

/// Drives the backend while the drivers do not: it waits for its turn behind theirs.
async fn drive(hub: &Hub) {
    loop {
        let error = hub.drive().await;
        time::sleep(random::around(if error.kind().is_transient() {
            FIRST_PAUSE
        } else {
            hub.config.denied_retry
        }))
        .await;
    }
}

async fn read_on(hub: &Hub, writer: &CatalogWriter) {
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let error = read(hub, writer).await;
        if began.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        let slow = !error.kind().is_transient();
        writer.failed(Arc::new(error));
        time::sleep(random::around(if slow { hub.config.denied_retry } else { pause })).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn read(hub: &Hub, writer: &CatalogWriter) -> Error {
    let mut feed = Feed::new(hub.clone(), hub.keys.instances().into(), Part::Keys);
    let mut known = Known::default();
    loop {
        match feed.next().await {
            Ok(News::All(listing)) => {
                known = Known::default();
                listing.entries.iter().for_each(|entry| known.put(&hub.keys, &entry.key));
            }
            Ok(News::Events(events)) => events.iter().for_each(|event| match event {
                Event::Put(entry) => known.put(&hub.keys, &entry.key),
                Event::Removed { key, .. } => known.remove(&hub.keys, key),
            }),
            Err(error) => return error,
        }
        writer.read(known.0.keys().cloned().collect());
    }
}

/// The keys of each service.
#[derive(Default)]
struct Known(BTreeMap<ServiceName, BTreeSet<Vec<u8>>>);

impl Known {
    fn put(&mut self, keys: &Keys, key: &[u8]) {
        if let Some(service) = keys.service_of(key) {
            self.0.entry(service).or_default().insert(key.to_vec());
        }
    }

    fn remove(&mut self, keys: &Keys, key: &[u8]) {
        let Some(service) = keys.service_of(key) else { return };
        if let Some(all) = self.0.get_mut(&service) {
            all.remove(key);
            if all.is_empty() {
                self.0.remove(&service);
            }
        }
    }
}
