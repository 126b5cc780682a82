//! What a client of the scenario sees of the instances: what a discovery says, later and as a stranger would see it,
//! or a list that the scenario writes itself.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use meshwork_core::{Instance, InstanceId, Instances, Origin, Publisher, Scheme, Staleness, Watch};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// How records are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// As they are.
    Native,
    /// As of nobody that is known, who speaks HTTP/1.1 only.
    Foreign,
}

/// A view; the task behind it ends with this.
pub(super) struct Sight {
    pub(super) watch: Watch,
    _relay: JoinSet<()>,
}

impl Sight {
    /// What `from` shows, each change `delay` later.
    pub(super) fn of(from: Watch, delay: Duration, read: Read) -> Self {
        let mut relay = JoinSet::new();
        if delay.is_zero() && read == Read::Native {
            return Self { watch: from, _relay: relay };
        }
        let publisher = Publisher::new(Arc::<Instances>::from([]));
        let watch = publisher.watch();
        relay.spawn(relayed(from, publisher, delay, read));
        Self { watch, _relay: relay }
    }
}

async fn relayed(mut from: Watch, to: Publisher, delay: Duration, read: Read) {
    let mut under_way = VecDeque::new();
    loop {
        let next = under_way.front().map(|(due, _)| *due);
        tokio::select! {
            view = from.changed() => under_way.push_back((Instant::now() + delay, view)),
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let Some((_, view)) = under_way.pop_front() else { continue };
                if view.staleness().is_pending() {
                    continue;
                }
                let seen = view.value().iter().map(|instance| read.of(instance)).collect();
                to.publish(view.staleness().clone(), seen, Arc::clone(view.held()));
            }
        }
    }
}

impl Read {
    fn of(self, instance: &Arc<Instance>) -> Arc<Instance> {
        if self == Self::Native {
            return Arc::clone(instance);
        }
        let mut stranger = (**instance).clone();
        stranger.origin = Origin::Foreign;
        stranger.endpoints.retain(|endpoint| matches!(endpoint.scheme(), Scheme::Http | Scheme::Https));
        Arc::new(stranger)
    }
}

/// A list that the scenario writes, as a platform does that announces on behalf of processes.
pub(super) struct List {
    publisher: Publisher,
    standing: Vec<Arc<Instance>>,
}

impl List {
    pub(super) fn new() -> Self {
        Self { publisher: Publisher::new(Arc::<Instances>::from([])), standing: Vec::new() }
    }

    pub(super) fn watch(&self) -> Watch {
        self.publisher.watch()
    }

    pub(super) fn add(&mut self, instance: Instance) {
        self.standing.push(Arc::new(instance));
        self.standing.sort_by(|a, b| a.id.cmp(&b.id));
        self.publish();
    }

    pub(super) fn remove(&mut self, id: &InstanceId) {
        self.standing.retain(|instance| instance.id != *id);
        self.publish();
    }

    fn publish(&self) {
        self.publisher.publish(Staleness::Fresh, self.standing.as_slice().into(), Arc::new([]));
    }
}
