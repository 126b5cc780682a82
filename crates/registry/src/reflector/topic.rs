//! A view that is being kept, and who watches it.
//!
//! Topics are held weakly: the shell's task and the watches keep them alive, so the end of a runtime
//! leaves no dead topic behind.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use meshwork_core::{Evidence, InstanceId, Publisher, Query, Seen, Task, Watch};
use tokio::sync::{Notify, mpsc};

use crate::Stats;

/// How many observations of clients may wait.
const OBSERVATIONS: usize = 256;

pub(crate) struct Topic {
    pub(crate) query: Query,
    pub(crate) publisher: Publisher,
    /// Told when the first watch comes or the last one goes.
    pub(crate) turned: Notify,
    watches: AtomicUsize,
    observations: mpsc::Sender<(InstanceId, Seen)>,
    stats: Arc<Stats>,
    task: OnceLock<Task>,
}

/// What the clients of a topic saw.
pub(crate) type Observations = mpsc::Receiver<(InstanceId, Seen)>;

/// All topics of one backend.
#[derive(Default)]
pub(crate) struct Topics(Mutex<HashMap<Query, Weak<Topic>>>);

impl Topics {
    /// A watch on the topic of `query`; without one, `spawn` starts its shell.
    pub(crate) fn watch(
        &self,
        query: &Query,
        stats: &Arc<Stats>,
        spawn: impl FnOnce(Arc<Topic>, Observations) -> Task,
    ) -> Watch {
        let mut topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = topics.get(query).and_then(Weak::upgrade).filter(|topic| topic.is_kept());
        let topic = kept.unwrap_or_else(|| {
            topics.retain(|_, topic| topic.strong_count() > 0);
            let (observations, seen) = mpsc::channel(OBSERVATIONS);
            let topic = Arc::new(Topic {
                query: query.clone(),
                publisher: Publisher::new(Arc::new([])),
                turned: Notify::new(),
                watches: AtomicUsize::new(0),
                observations,
                stats: Arc::clone(stats),
                task: OnceLock::new(),
            });
            topics.insert(query.clone(), Arc::downgrade(&topic));
            let task = spawn(Arc::clone(&topic), seen);
            topic.task.get_or_init(|| task);
            topic
        });
        Interest::on(&topic)
    }

    /// Forgets a topic that nobody watches; says whether that is so.
    pub(crate) fn retire(&self, topic: &Arc<Topic>) -> bool {
        let mut topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if topic.is_watched() {
            return false;
        }
        if topics.get(&topic.query).is_some_and(|known| Weak::as_ptr(known) == Arc::as_ptr(topic)) {
            topics.remove(&topic.query);
        }
        true
    }
}

impl Topic {
    pub(crate) fn is_watched(&self) -> bool {
        self.watches.load(SeqCst) > 0
    }

    /// Whether its task still lives: it ends with its runtime.
    fn is_kept(&self) -> bool {
        self.task.get().is_none_or(|task| !task.is_finished())
    }
}

impl Evidence for Topic {
    fn saw(&self, id: &InstanceId, what: Seen) {
        if self.observations.try_send((id.clone(), what)).is_err() {
            self.stats.evidence_dropped.add(1);
        }
    }
}

/// One watch's hold on a topic; clones of the watch share it.
struct Interest(Arc<Topic>);

impl Interest {
    fn on(topic: &Arc<Topic>) -> Watch {
        if topic.watches.fetch_add(1, SeqCst) == 0 {
            topic.turned.notify_one();
        }
        let evidence: Arc<dyn Evidence> = Arc::<Topic>::clone(topic);
        topic.publisher.watch().reporting_to(evidence).holding(Arc::new(Self(Arc::clone(topic))))
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        if self.0.watches.fetch_sub(1, SeqCst) == 1 {
            self.0.turned.notify_one();
        }
    }
}
