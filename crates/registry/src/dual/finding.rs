//! The finding side of a dual registry: follows both sides, and does what the merge says.

use std::{future, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use meshwork_core::{Discovery, Error, InstanceId, Query, Seen, Snapshot, Staleness, Task, Watch};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument;

use super::{
    DualStats, Policy, Side, Standing, Steering, Told,
    merge::{Action, Event, Merge},
};
use crate::{
    Line,
    reflector::topic::{Observations, Topic, Topics},
    whereabouts,
};

/// Watches both sides; equal queries share one union.
pub(super) struct Finder {
    shared: Arc<Shared>,
    /// Goes with the last handle: nothing lingers then.
    _owner: DropGuard,
}

struct Shared {
    sides: [Option<Arc<dyn Discovery>>; 2],
    names: [Arc<str>; 2],
    steering: Steering,
    stats: Arc<DualStats>,
    topics: Topics,
    abandoned: CancellationToken,
}

impl Finder {
    pub(super) fn new(
        sides: [Option<Arc<dyn Discovery>>; 2],
        names: [Arc<str>; 2],
        steering: Steering,
        stats: Arc<DualStats>,
    ) -> Self {
        let abandoned = CancellationToken::new();
        let _owner = abandoned.clone().drop_guard();
        let topics = Topics::default();
        Self { shared: Arc::new(Shared { sides, names, steering, stats, topics, abandoned }), _owner }
    }
}

impl Discovery for Finder {
    fn watch(&self, query: &Query) -> Watch {
        let shared = &self.shared;
        shared.topics.watch(query, &shared.stats.topics, |topic, observations| {
            let shell = Shell::new(Arc::clone(shared), topic);
            let followed = shell.run(observations).instrument(whereabouts::current());
            Task::new(format!("union of {query}"), CancellationToken::new(), tokio::spawn(followed))
        })
    }
}

/// Keeps one union.
struct Shell {
    shared: Arc<Shared>,
    topic: Arc<Topic>,
    policies: watch::Receiver<Policy>,
    merge: Merge,
    watches: [Option<Watch>; 2],
    standing: Arc<ArcSwap<Standing>>,
    disagreeing: u64,
    ended: bool,
}

impl Shell {
    fn new(shared: Arc<Shared>, topic: Arc<Topic>) -> Self {
        let mut policies = shared.steering.policies();
        let policy = *policies.borrow_and_update();
        let finds = shared.sides.each_ref().map(Option::is_some);
        let merge = Merge::new(topic.query.clone(), shared.names.clone(), finds, policy, Instant::now());
        let standing = shared.stats.list(merge.standing());
        Self { shared, topic, policies, merge, watches: [None, None], standing, disagreeing: 0, ended: false }
    }

    async fn run(mut self, mut observations: Observations) {
        let mut actions = Vec::new();
        while !self.ended {
            self.follow();
            let deadline = self.merge.deadline();
            let [primary, secondary] = &mut self.watches;
            let event = tokio::select! {
                // In this order, so that a side which never pauses cannot starve the rest.
                biased;
                () = until(deadline) => Event::Due,
                () = self.topic.turned.notified() => Event::Watched(self.topic.is_watched()),
                () = self.shared.abandoned.cancelled(), if !self.topic.is_watched() => {
                    self.shared.topics.retire(&self.topic);
                    return self.ended = true;
                }
                Ok(()) = self.policies.changed() => Event::Steered(*self.policies.borrow_and_update()),
                Some((id, what)) = observations.recv() => Event::Saw(id, what),
                view = changed(primary) => Event::Told(Side::Primary, view),
                view = changed(secondary) => Event::Told(Side::Secondary, view),
            };
            let is_told = matches!(event, Event::Told(..) | Event::Steered(_));
            if let Event::Saw(id, what) = &event {
                self.pass_on(id, *what);
            }
            let now = Instant::now();
            self.merge.step(event, now, &mut actions);
            let reports = actions.iter().any(|action| matches!(action, Action::Report));
            if is_told || reports {
                self.standing.store(Arc::new(self.merge.standing()));
            }
            actions.drain(..).for_each(|action| self.act(action));
            if self.ended && !self.shared.topics.retire(&self.topic) {
                self.ended = false;
                self.merge.step(Event::Watched(true), now, &mut actions);
                actions.drain(..).for_each(|action| self.act(action));
            }
        }
    }

    /// Watches the sides that are to be watched, and no others.
    fn follow(&mut self) {
        for side in Side::BOTH {
            let watch = &mut self.watches[side.at()];
            match (&self.shared.sides[side.at()], self.merge.follows(side)) {
                (Some(discovery), true) => {
                    let name = &self.shared.names[side.at()];
                    let ask = || {
                        whereabouts::side(side.as_str(), name).in_scope(|| discovery.watch(&self.topic.query))
                    };
                    watch.get_or_insert_with(ask);
                }
                _ => *watch = None,
            }
        }
    }

    /// Each side has its own guard.
    fn pass_on(&self, id: &InstanceId, what: Seen) {
        self.watches.iter().flatten().for_each(|watch| watch.saw(id, what));
    }

    fn act(&mut self, action: Action) {
        let stats = &self.shared.stats;
        match action {
            Action::Publish(publication) => {
                stats.views.add(1);
                let publisher = &self.topic.publisher;
                match publication.value {
                    Some(value) => publisher.publish(publication.staleness, value, publication.held),
                    None => publisher.restate(publication.staleness),
                }
            }
            Action::Report => {
                let now = self.merge.standing().disagreeing as u64;
                stats.disagreements.add(now.saturating_sub(self.disagreeing));
                stats.disagreeing.add(now.saturating_sub(self.disagreeing));
                stats.disagreeing.less(self.disagreeing.saturating_sub(now));
                self.disagreeing = now;
            }
            Action::Tell(told) => tell(&self.topic.query, &self.shared.names, &told),
            Action::End => self.ended = true,
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        self.shared.stats.disagreeing.less(self.disagreeing);
        if self.ended {
            return;
        }
        // The runtime ended under it: whoever still watches must not take the last view for the truth.
        let text = format!("runtime that watched `{}` ended", self.topic.query);
        let cause = Arc::new(Error::unavailable(text));
        let staleness = match self.topic.publisher.latest().staleness() {
            Staleness::Pending { .. } => Staleness::Pending { cause: Some(cause) },
            Staleness::Stale { since, age, .. } => Staleness::Stale { since: *since, age: *age, cause },
            _ => Staleness::Stale { since: Instant::now(), age: Duration::ZERO, cause },
        };
        self.topic.publisher.restate(staleness);
    }
}

/// The next view of a side that is watched.
///
/// # Cancel safety
/// Dropping the future loses nothing.
async fn changed(watch: &mut Option<Watch>) -> Snapshot {
    match watch {
        Some(watch) => watch.changed().await,
        None => future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => time::sleep_until(deadline).await,
        None => future::pending().await,
    }
}

fn tell(query: &Query, [primary, secondary]: &[Arc<str>; 2], told: &Told) {
    let Told { line, only: [only_primary, only_secondary], records, ids } = told;
    match line {
        Line::Lost => tracing::warn!(
            service = %query, %primary, %secondary, only_primary, only_secondary, records, ?ids,
            "the sides of a dual registry disagree on instances"
        ),
        Line::Still { since } => tracing::info!(
            service = %query, %primary, %secondary, only_primary, only_secondary, records, ?ids, ?since,
            "the sides of a dual registry still disagree on instances"
        ),
        Line::Back { after } => tracing::info!(
            service = %query, %primary, %secondary, ?after, "the sides of a dual registry agree again"
        ),
    }
}
