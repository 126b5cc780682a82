//! A handle that always holds the latest view, and the one writer behind it.

use std::{any::Any, fmt, future, sync::Arc};

use tokio::sync::watch;

use crate::{InstanceId, Instances, Staleness, View};

/// What a client's connection showed of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Seen {
    /// It answered as itself.
    Itself,
    /// Its address refused the connection.
    Refused,
    /// Somebody else answers at its address.
    Another,
    /// It said that it is draining.
    Draining,
    /// It was asked for a sign of life and gave none; its connection was given up.
    Silent,
}

/// Who takes the evidence that clients see on their connections. Must not block and do no I/O.
pub trait Evidence: Send + Sync + 'static {
    /// One observation of instance `id`.
    fn saw(&self, id: &InstanceId, what: Seen);
}

const _: fn(Box<dyn Evidence>) = |_| {};

/// Two that take the same evidence.
struct Both(Arc<dyn Evidence>, Arc<dyn Evidence>);

impl Evidence for Both {
    fn saw(&self, id: &InstanceId, what: Seen) {
        self.0.saw(id, what);
        self.1.saw(id, what);
    }
}

/// Always holds the latest view of one thing; a slow reader skips views and never becomes wrong.
///
/// Clones see changes independently. The topic behind it lives while any clone lives.
pub struct Watch<T: ?Sized = Instances> {
    views: watch::Receiver<View<T>>,
    evidence: Option<Arc<dyn Evidence>>,
    topic: Option<Arc<dyn Any + Send + Sync>>,
}

impl<T: ?Sized> Watch<T> {
    /// A watch of a value that never changes and is `Fresh`.
    pub fn fixed(value: Arc<T>) -> Self {
        let (_, views) = watch::channel(View::new(1, Staleness::Fresh, value));
        Self { views, evidence: None, topic: None }
    }

    /// Keeps `topic` alive as long as this watch or a clone of it lives.
    #[must_use]
    pub fn holding(mut self, topic: Arc<dyn Any + Send + Sync>) -> Self {
        self.topic = Some(topic);
        self
    }

    /// Hands what clients see to `evidence`, after whoever gets it already.
    #[must_use]
    pub fn reporting_to(mut self, evidence: Arc<dyn Evidence>) -> Self {
        self.evidence = Some(match self.evidence {
            Some(first) => Arc::new(Both(first, evidence)),
            None => evidence,
        });
        self
    }

    /// The latest view. It stays unseen for [`changed`](Self::changed).
    pub fn latest(&self) -> View<T> {
        self.views.borrow().clone()
    }

    /// Waits until something was read for the first time, and gives the view of then.
    ///
    /// Never returns while the view is `Pending`, so give it a deadline.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn ready(&self) -> View<T> {
        let mut views = self.views.clone();
        match views.wait_for(|view| !view.staleness().is_pending()).await {
            Ok(view) => return view.clone(),
            Err(_closed) => {}
        }
        future::pending().await
    }

    /// Waits until the view differs from the one this handle last saw, and gives the latest.
    ///
    /// The first call answers at once. When the writer is gone, the last view stands and this never returns.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next call sees the same change.
    pub async fn changed(&mut self) -> View<T> {
        match self.views.changed().await {
            Ok(()) => self.views.borrow_and_update().clone(),
            Err(_closed) => future::pending().await,
        }
    }
}

impl Watch {
    /// Reports what a connection showed of instance `id`: evidence for the guard. No I/O, never blocks.
    pub fn saw(&self, id: &InstanceId, what: Seen) {
        if let Some(evidence) = &self.evidence {
            evidence.saw(id, what);
        }
    }
}

impl<T: ?Sized> Clone for Watch<T> {
    fn clone(&self) -> Self {
        let mut views = self.views.clone();
        views.mark_changed();
        Self { views, evidence: self.evidence.clone(), topic: self.topic.clone() }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&*self.views.borrow()).finish()
    }
}

/// The one writer of a watch.
pub struct Publisher<T: ?Sized = Instances> {
    views: watch::Sender<View<T>>,
}

impl<T: ?Sized> Publisher<T> {
    /// Starts `Pending` with `empty` as its value.
    pub fn new(empty: Arc<T>) -> Self {
        Self { views: watch::Sender::new(View::new(0, Staleness::Pending { cause: None }, empty)) }
    }

    /// Publishes the next view; its generation is given by this publisher.
    pub fn publish(&self, staleness: Staleness, value: Arc<T>, held: Arc<[InstanceId]>) {
        self.views.send_modify(|view| {
            *view = View::new(view.generation() + 1, staleness, value).with_held(held);
        });
    }

    /// Publishes the same value with another staleness.
    pub fn restate(&self, staleness: Staleness) {
        self.views.send_modify(|view| {
            let (value, held) = (Arc::clone(view.value()), Arc::clone(view.held()));
            *view = View::new(view.generation() + 1, staleness, value).with_held(held);
        });
    }

    /// The view as published last.
    pub fn latest(&self) -> View<T> {
        self.views.borrow().clone()
    }

    /// A new watch, which has seen nothing yet.
    pub fn watch(&self) -> Watch<T> {
        let mut views = self.views.subscribe();
        views.mark_changed();
        Watch { views, evidence: None, topic: None }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Publisher").field(&*self.views.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn publisher() -> Publisher<str> {
        Publisher::new("".into())
    }

    #[tokio::test(start_paused = true)]
    async fn empty_is_not_unknown() {
        let publisher = publisher();
        let watch = publisher.watch();
        assert!(watch.latest().known().is_none());
        publisher.publish(Staleness::Fresh, "".into(), Arc::new([]));
        assert_eq!(watch.ready().await.known().map(|v| &**v), Some(""));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_sees_the_latest_view_only() {
        let publisher = publisher();
        let mut watch = publisher.watch();
        watch.changed().await;
        for value in ["a", "b", "c"] {
            publisher.publish(Staleness::Fresh, value.into(), Arc::new([]));
        }
        let view = watch.changed().await;
        assert_eq!((&**view.value(), view.generation()), ("c", 3));
        assert!(timeout(Duration::from_secs(60), watch.changed()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_clone_and_a_new_watch_answer_at_once() {
        let publisher = publisher();
        let mut watch = publisher.watch();
        watch.changed().await;
        let mut clone = watch.clone();
        assert!(timeout(Duration::from_secs(1), clone.changed()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_view_stands_when_the_writer_is_gone() {
        let publisher = publisher();
        publisher.publish(Staleness::Fresh, "a".into(), Arc::new([]));
        let mut watch = publisher.watch();
        drop(publisher);
        assert_eq!(&**watch.latest().value(), "a");
        let _ = timeout(Duration::from_secs(1), watch.changed()).await;
        assert!(timeout(Duration::from_secs(1), watch.changed()).await.is_err());
    }
}
