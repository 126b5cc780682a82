//! The names of all services of our environment, from the keys under its prefix, while anybody watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use meshwork_core::{Catalog, Drive, Error, Publisher, ServiceName, Staleness, Task, Watch};
use tokio::{time, time::Instant};
use tokio_util::sync::CancellationToken;

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
pub(crate) struct Services {
    hub: Hub,
    topic: Mutex<Weak<Topic>>,
}

struct Topic {
    publisher: Arc<Publisher<BTreeSet<ServiceName>>>,
    task: Task,
}

impl Services {
    pub(crate) fn new(hub: Hub) -> Self {
        Self { hub, topic: Mutex::default() }
    }
}

impl Catalog for Services {
    fn services(&self) -> Watch<BTreeSet<ServiceName>> {
        let mut kept = self.topic.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = kept.upgrade().filter(|topic| !topic.task.is_finished()).unwrap_or_else(|| {
            let publisher = Arc::new(Publisher::new(Arc::default()));
            let work = follow(self.hub.clone(), Arc::clone(&publisher));
            let task = Task::new("etcd catalog", CancellationToken::new(), tokio::spawn(work));
            let topic = Arc::new(Topic { publisher, task });
            *kept = Arc::downgrade(&topic);
            topic
        });
        topic.publisher.watch().holding(topic)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

/// Never returns.
async fn follow(hub: Hub, publisher: Arc<Publisher<BTreeSet<ServiceName>>>) {
    // Two loops, so that what fails in reading does not end a drive that others have come to rely on.
    tokio::join!(drive(&hub), read_on(&hub, &publisher));
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

async fn read_on(hub: &Hub, publisher: &Publisher<BTreeSet<ServiceName>>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let error = read(hub, publisher).await;
        if began.elapsed() > LONGEST_PAUSE {
            pause = FIRST_PAUSE;
        }
        let slow = !error.kind().is_transient();
        let cause = Arc::new(error);
        publisher.restate(match publisher.latest().staleness() {
            Staleness::Pending { .. } => Staleness::Pending { cause: Some(cause) },
            Staleness::Stale { since, age, .. } => Staleness::Stale { since: *since, age: *age, cause },
            _ => Staleness::Stale { since: Instant::now(), age: Duration::ZERO, cause },
        });
        time::sleep(random::around(if slow { hub.config.denied_retry } else { pause })).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn read(hub: &Hub, publisher: &Publisher<BTreeSet<ServiceName>>) -> Error {
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
        let latest = publisher.latest();
        if !(latest.staleness().is_fresh() && latest.value().iter().eq(known.0.keys())) {
            let names = known.0.keys().cloned().collect();
            publisher.publish(Staleness::Fresh, Arc::new(names), Arc::new([]));
        }
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
