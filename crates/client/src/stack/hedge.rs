//! Hedging: a second attempt on another node when the first takes long; to recovery both are one.

use std::{pin::pin, slice, sync::Arc, time::Duration};

use futures_util::FutureExt;
use meshwork_balance::{Node, Outcome};
use meshwork_core::Delivered;
use meshwork_resilience::{
    hedge::{Hedging, Suits},
    retry::Allowed,
};
use tokio::time::{self, Instant};

use super::{Call, Came};
use crate::{
    AttemptPhase,
    choose::{self, Wish},
    flight::Flight,
};

/// What an attempt and its hedge came to together.
pub(super) struct Raced {
    pub(super) came: Came,
    pub(super) began: Instant,
    /// The one of them that came to nothing beside it.
    pub(super) lost: Option<Lost>,
}

/// An attempt that came to nothing while the other one went on, or ended with it.
pub(super) struct Lost {
    /// Absent when it was still in flight.
    came: Option<Came>,
    node: Arc<Node>,
    began: Instant,
}

impl Call {
    /// What is known of the method's latency, and after how long a hedge may follow; `None` where calls are not
    /// hedged. A first attempt only.
    pub(super) fn hedging(&self, began: Instant) -> Option<(Arc<Hedging>, Option<Duration>)> {
        let methods = self.rule.hedges()?;
        if self.is_pinned() || !self.attempts.is_empty() {
            return None;
        }
        let Allowed { idempotent, kept, nested, .. } = self.allowed;
        let hedging = methods.of(self.head.uri.path(), began);
        Some((Arc::clone(hedging), hedging.after(Suits { idempotent, kept, nested }, began)))
    }

    /// An attempt, and another one on another node when it takes long. The one that is not needed is dropped,
    /// which cancels it and tells its node no more than that it took at least so long.
    pub(super) async fn race(
        &self,
        flight: Flight,
        began: Instant,
        hedging: &Hedging,
        after: Option<Duration>,
    ) -> Raced {
        let node = flight.node();
        let mut first = pin!(self.attempt(flight, began, 0));
        let learn = |came: Came| {
            if let Came::Answer(_) = came {
                let now = Instant::now();
                hedging.answered(now.saturating_duration_since(began), now);
            }
            Raced { came, began, lost: None }
        };
        let Some(at) = after.and_then(|after| began.checked_add(after)) else { return learn(first.await) };
        if let Ok(came) = time::timeout_at(at, first.as_mut()).await {
            return learn(came);
        }
        let Some(flight) = self.second(&node, hedging) else { return learn(first.await) };
        let (other, sent) = (flight.node(), Instant::now());
        // Boxed, so that calls which need none do not carry its room.
        let mut second = Box::pin(self.attempt(flight, sent, 1));
        let won = |came: Came| {
            if let Came::Answer(_) = came {
                let now = Instant::now();
                hedging.won(now.saturating_duration_since(began), now);
            }
            Raced { came, began: sent, lost: None }
        };
        let in_flight = || Some(Lost { came: None, node: Arc::clone(&node), began });
        tokio::select! {
            came = first.as_mut() => match came {
                Came::Answer(_) => learn(came),
                // The call's time is over for both; the other may have come just in time.
                Came::Over(error, _) => match second.now_or_never() {
                    Some(came @ Came::Answer(_)) => won(came),
                    _ => Raced { lost: in_flight(), ..won(Came::Over(error, other)) },
                },
                _ => {
                    let lost = Some(Lost { came: Some(came), node, began });
                    Raced { came: second.await, began: sent, lost }
                }
            },
            came = second.as_mut() => match came {
                Came::Answer(_) => won(came),
                Came::Over(..) => match first.now_or_never() {
                    Some(came @ Came::Answer(_)) => learn(came),
                    _ => Raced { lost: in_flight(), ..won(came) },
                },
                _ => {
                    let lost = Some(Lost { came: Some(came), node: other, began: sent });
                    Raced { lost, ..learn(first.await) }
                }
            },
        }
    }

    /// A place for the hedge on another node than the first attempt's, if the budget has one.
    fn second(&self, first: &Node, hedging: &Hedging) -> Option<Flight> {
        if !self.has_others(first) {
            return None;
        }
        let refuse = slice::from_ref(first.key());
        let wish = Wish { avoid: refuse, refuse, ..self.wish(false) };
        let flight = choose::choose_now(&self.shared, &wish)?;
        if hedging.take(&self.shared.budget, Instant::now()) {
            return Some(flight);
        }
        flight.finish(Outcome::Neutral, false);
        None
    }

    /// Notes the attempt of two that came to nothing.
    pub(super) fn set_aside(&mut self, lost: Lost) {
        const THEN: &str = "waited for the other attempt";
        let Lost { came, node, began } = lost;
        match came {
            Some(Came::Failed(failure, _)) => {
                if failure.delivered == Delivered::Maybe {
                    self.delivered = Delivered::Maybe;
                }
                self.note(&node, failure.phase, began, &failure.code, THEN);
            }
            Some(Came::Unavailable(_answer, flight, _, unavailable)) => {
                flight.finish(Outcome::Failure, false);
                self.delivered = Delivered::Maybe;
                self.note(&node, AttemptPhase::Exchange, began, &unavailable.code, THEN);
            }
            None | Some(Came::Over(..) | Came::Answer(_)) => {
                self.delivered = Delivered::Maybe;
                self.note(&node, AttemptPhase::Exchange, began, "no answer", "the call's time is over");
            }
        }
        self.avoid.push(node.key().clone());
        self.failed.push(node.key().clone());
    }
}
