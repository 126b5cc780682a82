//! Lists of services: one task while anybody watches, and the union of several lists.
//!
//! A backend that can list its services gives [`SharedCatalog::new`] the work that keeps the list.

use std::{
    collections::BTreeSet,
    future, mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::future::select_all;
use meshwork_core::{Catalog, Error, ErrorChain, Publisher, ServiceName, Staleness, Task, View, Watch};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

/// The names of services.
pub type Names = BTreeSet<ServiceName>;

/// A list that has neither answered nor failed is waited for this long before a union without it is shown.
const PATIENCE: Duration = Duration::from_millis(500);

type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Keeps a list while anybody watches it: all watches share one task, which ends with the last of them.
pub struct SharedCatalog {
    name: &'static str,
    topic: Mutex<Weak<Topic>>,
    work: Box<dyn Fn(CatalogWriter) -> Work + Send + Sync>,
}

struct Topic {
    publisher: Arc<Publisher<Names>>,
    task: Task,
}

/// Writes a list down. When it is dropped the list is stale, or still pending: nobody keeps it any more.
pub struct CatalogWriter(Arc<Publisher<Names>>);

impl SharedCatalog {
    /// A list that `work` keeps, which never returns; `name` is its task's.
    pub fn new<F>(name: &'static str, work: impl Fn(CatalogWriter) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self { name, topic: Mutex::default(), work: Box::new(move |writer| Box::pin(work(writer))) }
    }
}

impl Catalog for SharedCatalog {
    fn services(&self) -> Watch<Names> {
        let mut kept = self.topic.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = kept.upgrade().filter(|topic| !topic.task.is_finished()).unwrap_or_else(|| {
            let publisher = Arc::new(Publisher::new(Arc::default()));
            let work = (self.work)(CatalogWriter(Arc::clone(&publisher)));
            let task = Task::new(self.name, CancellationToken::new(), tokio::spawn(work));
            let topic = Arc::new(Topic { publisher, task });
            *kept = Arc::downgrade(&topic);
            topic
        });
        topic.publisher.watch().holding(topic)
    }
}

// === impl CatalogWriter ===

impl CatalogWriter {
    /// The services are these.
    pub fn read(&self, names: Names) {
        self.say(Staleness::Fresh, names);
    }

    /// They cannot be read; what was read last stands.
    pub fn failed(&self, cause: Arc<Error>) {
        let latest = self.0.latest();
        let staleness = match latest.staleness() {
            Staleness::Pending { .. } => Staleness::Pending { cause: Some(cause) },
            Staleness::Stale { since, age, .. } => Staleness::Stale { since: *since, age: *age, cause },
            _ => Staleness::Stale { since: Instant::now(), age: Duration::ZERO, cause },
        };
        self.say(staleness, (**latest.value()).clone());
    }

    /// Publishes what differs from what was published last.
    fn say(&self, staleness: Staleness, names: Names) {
        let latest = self.0.latest();
        let text = |cause: Option<&Arc<Error>>| cause.map(|cause| ErrorChain(&**cause).to_string());
        let is_same_word = mem::discriminant(&staleness) == mem::discriminant(latest.staleness())
            && text(staleness.cause()) == text(latest.staleness().cause());
        if !is_same_word || **latest.value() != names {
            self.0.publish(staleness, Arc::new(names), Arc::new([]));
        }
    }
}

impl Drop for CatalogWriter {
    fn drop(&mut self) {
        // Its runtime ended, or nobody watches any more.
        self.failed(Arc::new(Error::unavailable("runtime that listed services ended")));
    }
}

// === the union ===

/// One list of several.
pub(crate) struct Member {
    pub(crate) catalog: Arc<dyn Catalog>,
    /// What errors call it.
    pub(crate) name: Box<str>,
    /// Whether a service is listed here; what it says may change with `turns`.
    pub(crate) lists: Box<dyn Fn(&ServiceName) -> bool + Send + Sync>,
    /// Whether it counts at all now.
    pub(crate) counts: Box<dyn Fn() -> bool + Send + Sync>,
}

/// The union of several lists. It is fresh when all that count are, and known when one of them is. It is
/// looked at anew when `turns` changes.
pub(crate) fn union<T: Send + Sync + 'static>(
    name: &'static str,
    members: Vec<Member>,
    turns: watch::Receiver<T>,
) -> SharedCatalog {
    let members: Arc<[Member]> = members.into();
    SharedCatalog::new(name, move |writer| follow(writer, Arc::clone(&members), turns.clone()))
}

async fn follow<T>(writer: CatalogWriter, members: Arc<[Member]>, mut turns: watch::Receiver<T>) {
    let mut watches: Vec<_> = members.iter().map(|member| member.catalog.services()).collect();
    let mut views: Vec<_> = watches.iter().map(Watch::latest).collect();
    let patience = Instant::now() + PATIENCE;
    loop {
        let is_silent = |view: &View<Names>| matches!(view.staleness(), Staleness::Pending { cause: None });
        let waits = views.iter().any(is_silent) && Instant::now() < patience;
        if !waits {
            tell(&writer, &members, &views);
        }
        let changed = watches.iter_mut().map(|watch| Box::pin(watch.changed()));
        tokio::select! {
            (view, place, _others) = select_all(changed) => views[place] = view,
            () = turn(&mut turns) => {}
            () = time::sleep_until(patience), if waits => {}
        }
    }
}

async fn turn<T>(turns: &mut watch::Receiver<T>) {
    if turns.changed().await.is_err() {
        future::pending::<()>().await;
    }
}

fn tell(writer: &CatalogWriter, members: &[Member], views: &[View<Names>]) {
    let counting: Vec<_> = members.iter().zip(views).filter(|(member, _)| (member.counts)()).collect();
    let known = counting.iter().filter_map(|(member, view)| Some((member, view.known()?)));
    let known: Vec<_> = known.collect();
    let names =
        known.iter().flat_map(|(member, names)| names.iter().filter(|name| (member.lists)(name)).cloned());
    let names: Names = names.collect();
    let failing = counting.iter().find(|(_, view)| !view.staleness().is_fresh());
    let Some((member, view)) = failing else { return writer.read(names) };
    let silent = || Arc::new(Error::unavailable("no answer yet"));
    let cause = view.staleness().cause().cloned().unwrap_or_else(silent);
    let kind = cause.kind();
    let cause = Arc::new(Error::new(kind, format!("listing services of {}", member.name)).with_source(cause));
    if known.is_empty() {
        return writer.failed(cause);
    }
    let since = match writer.0.latest().staleness() {
        Staleness::Stale { since, .. } => *since,
        _ => Instant::now(),
    };
    writer.say(Staleness::Stale { since, age: Duration::ZERO, cause }, names);
}
