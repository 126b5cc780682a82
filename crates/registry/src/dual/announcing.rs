//! The announcing side of a dual registry: one registration made of one on each side that is written.

use std::{future, sync::Arc};

use meshwork_core::{BoxFuture, Departure, Error, Instance, Registration, RegistrationState, Registry, Wish};
use tokio::{sync::watch, time::Instant};
use tracing::Instrument;

use super::{
    DualStats, Policy, Side, Steering,
    blame::blame,
    joint::{States, joint, says_the_same},
};
use crate::whereabouts;

/// Announces on the sides that are written.
pub(super) struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    sides: [Option<Arc<dyn Registry>>; 2],
    names: [Arc<str>; 2],
    steering: Steering,
    stats: Arc<DualStats>,
}

impl Writer {
    pub(super) fn new(
        sides: [Option<Arc<dyn Registry>>; 2],
        names: [Arc<str>; 2],
        steering: Steering,
        stats: Arc<DualStats>,
    ) -> Self {
        Self { shared: Arc::new(Shared { sides, names, steering, stats }) }
    }
}

impl Registry for Writer {
    fn register(&self, instance: Instance) -> Registration {
        let wish = Arc::new(watch::Sender::new(Wish { instance: Arc::new(instance), departure: None }));
        let (state, seen) = watch::channel(RegistrationState::Pending { cause: None });
        let keeper = Keeper::new(Arc::clone(&self.shared), Arc::clone(&wish), state);
        // Not owned by the registration: it must outlive its drop, to leave. It ends with `Gone`.
        tokio::spawn(keeper.run().instrument(whereabouts::current()));
        Registration::new(wish, seen)
    }
}

/// What there is on one side.
enum Post {
    Away,
    There {
        registration: Registration,
        state: watch::Receiver<RegistrationState>,
        /// The record it was told last.
        told: Arc<Instance>,
    },
    /// It leaves; the driver below gives that a limit.
    Leaving(BoxFuture<'static, Result<(), Arc<Error>>>),
}

/// What happened on one side.
enum Turn {
    Stated,
    Left(Result<(), Arc<Error>>),
}

struct Keeper {
    shared: Arc<Shared>,
    wish: Arc<watch::Sender<Wish>>,
    state: watch::Sender<RegistrationState>,
    posts: [Post; 2],
    counted: [Counted; 2],
    /// What leaving for good met, per side.
    failed: Vec<(Side, Arc<Error>)>,
    was_live: bool,
}

/// What the statistics say of one side.
#[derive(Clone, Copy, Default, PartialEq)]
struct Counted {
    is_there: bool,
    is_live: bool,
}

// === impl Keeper ===

impl Keeper {
    fn new(
        shared: Arc<Shared>,
        wish: Arc<watch::Sender<Wish>>,
        state: watch::Sender<RegistrationState>,
    ) -> Self {
        let posts = [Post::Away, Post::Away];
        Self { shared, wish, state, posts, counted: Default::default(), failed: Vec::new(), was_live: false }
    }

    async fn run(mut self) {
        let (mut wishes, mut policies) = (self.wish.subscribe(), self.shared.steering.policies());
        loop {
            let wish = wishes.borrow_and_update().clone();
            let policy = *policies.borrow_and_update();
            self.rename();
            match wish.departure {
                None => self.arrange(&policy),
                Some(how) if self.leave(how) => return self.gone(),
                Some(_) => {}
            }
            if wish.departure.is_none() {
                self.publish(&policy);
            }
            self.count();
            let [primary, secondary] = &mut self.posts;
            let (side, turn) = tokio::select! {
                // The keeper and its steering hold the senders: neither can close under it.
                _ = wishes.changed() => continue,
                _ = policies.changed() => continue,
                turn = primary.turn() => (Side::Primary, turn),
                turn = secondary.turn() => (Side::Secondary, turn),
            };
            if let Turn::Left(outcome) = turn {
                self.posts[side.at()] = Post::Away;
                if let (Err(error), Some(_)) = (outcome, wish.departure) {
                    self.failed.push((side, error));
                }
            }
        }
    }

    /// Takes over the id that a side took after a conflict: an instance has one id on both sides.
    fn rename(&mut self) {
        let wished = self.wish.borrow().instance.id.clone();
        let renamed = self.posts.iter().find_map(|post| match post {
            Post::There { registration, told, .. } if told.id == wished => {
                Some(registration.id()).filter(|id| *id != wished)
            }
            _ => None,
        });
        if let Some(id) = renamed {
            self.wish.send_modify(|wish| {
                let mut instance = (*wish.instance).clone();
                instance.id = id;
                wish.instance = Arc::new(instance);
            });
        }
    }

    /// Brings the sides in line with the wish and the policy.
    fn arrange(&mut self, policy: &Policy) {
        let wished = Arc::clone(&self.wish.borrow().instance);
        let is_wanted = |side: Side| policy.write.is_on(side) && self.shared.sides[side.at()].is_some();
        // Nothing is left before something else stands: an instance that moves is never absent.
        let stands = |side: Side| is_wanted(side) && self.posts[side.at()].is_live();
        let may_leave = Side::BOTH.into_iter().any(stands);
        let wanted = Side::BOTH.map(is_wanted);
        for side in Side::BOTH {
            let post = &mut self.posts[side.at()];
            match post {
                Post::Away if wanted[side.at()] => *post = self.shared.enter(side, &wished),
                Post::There { registration, .. } if registration.id() != wished.id => {
                    post.leave(Departure::Silent);
                }
                Post::There { .. } if !wanted[side.at()] && may_leave => post.leave(Departure::Silent),
                Post::There { registration, told, .. } if !Arc::ptr_eq(told, &wished) => {
                    *told = Arc::clone(&wished);
                    registration.update(|instance| *instance = (*wished).clone());
                }
                _ => {}
            }
        }
    }

    /// Leaves both sides at once; says whether nothing is left to leave.
    fn leave(&mut self, how: Departure) -> bool {
        self.posts.iter_mut().for_each(|post| post.leave(how));
        self.posts.iter().all(|post| matches!(post, Post::Away))
    }

    fn publish(&mut self, policy: &Policy) {
        let states: States = Side::BOTH.map(|side| match &self.posts[side.at()] {
            Post::There { state, .. } => Some(state.borrow().clone()),
            _ => None,
        });
        let before = self.state.borrow().clone();
        let state = joint(&states, &self.shared.names, policy.start, &before, self.was_live, Instant::now());
        self.was_live |= matches!(state, RegistrationState::Live);
        if !says_the_same(&before, &state) {
            self.state.send_replace(state);
        }
    }

    fn gone(&mut self) {
        let outcome = match self.failed.first() {
            None => Ok(()),
            Some((_, first)) => Err(blame("leaving", &self.shared.names, first.kind(), &self.failed)),
        };
        self.state.send_replace(RegistrationState::Gone { outcome });
    }

    fn count(&mut self) {
        for side in Side::BOTH {
            let post = &self.posts[side.at()];
            let now = Counted { is_there: !matches!(post, Post::Away), is_live: post.is_live() };
            let before = std::mem::replace(&mut self.counted[side.at()], now);
            let stats = self.shared.stats.side(side);
            match (before.is_there, now.is_there) {
                (false, true) => stats.registrations.add(1),
                (true, false) => stats.registrations.less(1),
                _ => {}
            }
            match (before.is_live, now.is_live) {
                (false, true) => stats.live.add(1),
                (true, false) => stats.live.less(1),
                _ => {}
            }
            if before.is_live && !now.is_live && matches!(post, Post::There { .. }) {
                stats.lost.add(1);
            }
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.posts = [Post::Away, Post::Away];
        self.count();
    }
}

// === impl Shared, Post ===

impl Shared {
    /// Registers on one side.
    fn enter(&self, side: Side, instance: &Arc<Instance>) -> Post {
        let Some(registry) = &self.sides[side.at()] else { return Post::Away };
        let place = whereabouts::side(side.as_str(), &self.names[side.at()]);
        let registration = place.in_scope(|| registry.register((**instance).clone()));
        Post::There { state: registration.state(), registration, told: Arc::clone(instance) }
    }
}

impl Post {
    /// Begins to leave, where there is something to leave.
    fn leave(&mut self, how: Departure) {
        if let Self::There { .. } = self
            && let Self::There { registration, .. } = std::mem::replace(self, Self::Away)
        {
            *self = Self::Leaving(Box::pin(registration.depart(how)));
        }
    }

    fn is_live(&self) -> bool {
        matches!(self, Self::There { state, .. } if matches!(*state.borrow(), RegistrationState::Live))
    }

    /// The next thing that happens here; never, where nothing is.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn turn(&mut self) -> Turn {
        match self {
            Self::Away => future::pending().await,
            Self::There { state, .. } => match state.changed().await {
                Ok(()) => Turn::Stated,
                // Its keeper ended with its runtime.
                Err(_closed) => future::pending().await,
            },
            Self::Leaving(leaving) => Turn::Left(leaving.await),
        }
    }
}
