//! One call, from the outside in. The order of the layers stands here and nowhere else:
//!
//! 1. **context and deadline**: everything inside must know how long it may take and on whose behalf;
//! 2. **reading the body ahead**: once, before any attempt, so that each can send it again;
//! 3. **limits** (calls at a time, calls per second): outside recovery, because a call waits for its turn once
//!    and a refusal of our own is nothing to retry; the method's limit before the client's, the narrower first;
//! 4. **recovery** (re-route, retry with budget): outside the pick, because another attempt is another pick;
//! 5. **pick** (subset, zone, policy): outside the attempt's time-out, because waiting for a connection is no
//!    node's fault;
//! 6. **attempt time-out**: outside the exchange, so that its passing is the node's failure, not a cancel;
//! 7. **ticket and exchange**: innermost, so that exactly what the node did is counted on it.
//!
//! Around 6 and 7 stands hedging, where it is on: a second attempt is another pick, and both are one to recovery.
//! The span of tracing is around all of it, in `channel.rs`. 1 and 2 are made by `begin`, which needs no waiting;
//! all else by `run`.

use std::{sync::Arc, time::Duration};

use http::{Response, request::Parts};
use hyper::body::Incoming;
use meshwork_balance::{Node, NodeKey, Outcome, SubsetId};
use meshwork_core::{Delivered, Verdict};
use meshwork_resilience::{
    Backoff, Jitter, chance,
    deadline::Deadline,
    retry::{Allowed, Chain, Next, Recovery, Trouble},
};
use tokio::time::{self, Instant};

use crate::{
    Attempt, AttemptPhase, Body, CallError, CallOptions,
    choose::{self, Wish},
    failure::Failure,
    flight::{Flight, link_of},
    rules::Ruled,
    shared::{Kind, Shared},
    upload::Upload,
    verdict::Unavailable,
};

mod admit;
mod attempt;
mod begin;
mod hedge;

use admit::Places;

pub(crate) use begin::{Inherited, begin};

/// The time left of a call without any limit.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);
/// Pauses from the second retry on.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1), Jitter::Fifth);

/// One call between its attempts.
pub(crate) struct Call {
    shared: Arc<Shared>,
    options: Arc<CallOptions>,
    rule: Ruled,
    kind: Kind,
    /// Calls of one hash prefer one node.
    hash: Option<u64>,
    /// What the call's lane asks for.
    subset: Option<SubsetId>,
    head: Parts,
    upload: Upload,
    deadline: Deadline,
    allowed: Allowed,
    begun: Instant,
    /// Attempts of the caller that this call is part of.
    attempt: u32,
    /// Nodes to keep away from if another can take the call.
    avoid: Vec<NodeKey>,
    /// Nodes on which an attempt failed: a retry goes to another one.
    failed: Vec<NodeKey>,
    attempts: Vec<Attempt>,
    /// Whether any attempt so far may have been delivered.
    delivered: Delivered,
    recovery: Recovery,
}

/// What one attempt came to.
enum Came {
    Answer(Response<Body>),
    /// An answer by which the node says that it cannot serve; the flight is still open.
    Unavailable(Response<Incoming>, Flight, Option<Outcome>, Unavailable),
    Failed(Failure, Arc<Node>),
    Over(CallError, Arc<Node>),
}

impl Call {
    /// Makes it. `_keep` lives as long as it: the connections end with the last channel, and a call that
    /// outlives its channel needs them.
    ///
    /// # Errors
    /// [`CallError`] with every attempt that was made.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call.
    pub(crate) async fn run<K>(mut self: Box<Self>, _keep: K) -> Result<Response<Body>, CallError> {
        // 3. limits
        let mut places = Places::default();
        if !self.admit_at_once(&mut places) {
            // Boxed, so that calls which need not wait do not carry its room.
            let admitted = Box::pin(self.admit(&mut places)).await;
            admitted.map_err(|error| error.with_service(&self.shared.service))?;
        }
        // Refused calls are none: they earn no retries.
        self.shared.budget.called(self.begun);

        // 4. recovery
        let mut insist = false;
        let mut chosen: Option<Box<(Flight, Instant)>> = None;
        loop {
            // 5. pick
            let (flight, began) = match chosen.take() {
                Some(chosen) => *chosen,
                None => {
                    let now = if self.attempts.is_empty() { self.begun } else { Instant::now() };
                    match choose::at_once(&self.shared, &self.wish(insist), now) {
                        Ok(Some(flight)) => (flight, now),
                        // Boxed, so that calls which need not wait do not carry its room.
                        Ok(None) => match Box::pin(choose::wait(&self.shared, &self.wish(insist))).await {
                            Ok(flight) => (flight, Instant::now()),
                            Err(error) => return Err(self.over(error)),
                        },
                        Err(error) => return Err(self.over(error)),
                    }
                }
            };
            let (came, began) = match self.hedging(began) {
                None => (self.attempt(flight, began, 0).await, began),
                Some((hedging, after)) => {
                    let raced = Box::pin(self.race(flight, began, &hedging, after)).await;
                    if let Some(lost) = raced.lost {
                        self.set_aside(lost);
                    }
                    (raced.came, raced.began)
                }
            };
            let next = match came {
                Came::Answer(answer) => return Ok(answer),
                Came::Over(error, node) => {
                    self.note(&node, AttemptPhase::Exchange, began, "no answer", "the call's time is over");
                    return Err(self.over(error));
                }
                Came::Failed(failure, node) => {
                    let next = self.after(&failure.trouble(), &node);
                    self.note(&node, failure.phase, began, &failure.code, next.words());
                    if let Next::Stop(_) = next {
                        return Err(self.over(failure.into_error()));
                    }
                    self.avoid.push(node.key().clone());
                    if let Next::Retry(pause) = next {
                        self.failed.push(node.key().clone());
                        self.pause(pause).await;
                    }
                    next
                }
                Came::Unavailable(answer, flight, verdict, unavailable) => {
                    let node = flight.node();
                    let next = self.after(&unavailable.trouble, &node);
                    self.note(&node, AttemptPhase::Exchange, began, &unavailable.code, next.words());
                    let Next::Retry(pause) = next else { return Ok(self.handed_on(answer, flight, verdict)) };
                    self.avoid.push(node.key().clone());
                    self.failed.push(node.key().clone());
                    self.pause(pause).await;
                    // There is an answer to fall back on, so another node is not waited for.
                    // Boxed, because nearly all calls come without.
                    let other = choose::choose_now(&self.shared, &self.wish(true));
                    chosen = other.map(|flight| Box::new((flight, Instant::now())));
                    if chosen.is_none() {
                        return Ok(self.handed_on(answer, flight, verdict));
                    }
                    drop(answer);
                    flight.finish(Outcome::Failure, false);
                    next
                }
            };
            insist = matches!(next, Next::Retry(_));
        }
    }

    /// The answer of the attempt that was noted last.
    fn handed_on(
        &self,
        answer: Response<Incoming>,
        flight: Flight,
        verdict: Option<Outcome>,
    ) -> Response<Body> {
        let earlier = self.attempts.split_last().map_or(&[][..], |(_itself, earlier)| earlier);
        self.answer(answer, flight, verdict, earlier)
    }

    fn after(&mut self, trouble: &Trouble, node: &Node) -> Next {
        let mut recovery = std::mem::take(&mut self.recovery);
        let others = || self.has_others(node);
        let budget = || self.shared.budget.take(Instant::now());
        let left = self.left();
        let next = recovery.next(trouble, &self.allowed, &PAUSES, left, chance::bits, others, budget);
        self.recovery = recovery;
        if matches!(next, Next::Stop(why) if why.is_spent() || self.recovery.retries() > 0) {
            Chain::spent();
        }
        if trouble.delivered == Delivered::Maybe {
            self.delivered = Delivered::Maybe;
        }
        next
    }

    /// Whether anybody but the nodes that failed and this one could be asked.
    fn has_others(&self, node: &Node) -> bool {
        let wish = self.wish(false);
        !self.is_pinned() && choose::has_others(&self.shared, &wish, &self.failed, node.key())
    }

    fn is_pinned(&self) -> bool {
        self.options.instance.is_some() || self.options.addr.is_some()
    }

    async fn pause(&self, pause: Duration) {
        if !pause.is_zero() {
            time::sleep(pause).await;
        }
    }

    fn wish(&self, insist: bool) -> Wish<'_> {
        Wish {
            kind: self.kind,
            options: &self.options,
            deadline: &self.deadline,
            rule: &self.rule,
            path: self.head.uri.path(),
            hash: self.hash,
            subset: self.subset,
            avoid: &self.avoid,
            refuse: if insist { &self.failed } else { &[] },
        }
    }

    fn left(&self) -> Duration {
        let bound = self.deadline.exchange(self.upload.is_stream());
        bound.map_or(FOREVER, |bound| bound.at().saturating_duration_since(Instant::now()))
    }

    fn note(&mut self, node: &Node, phase: AttemptPhase, began: Instant, code: &str, then: &'static str) {
        let link = link_of(node);
        let (service, address, elapsed) = (&self.shared.service, link.target().address(), began.elapsed());
        tracing::debug!(%service, %address, code, ?elapsed, then, "attempt failed");
        self.attempts.push(Attempt {
            address: Arc::clone(address),
            instance: link.record().id.clone(),
            phase,
            code: code.to_owned().into(),
            elapsed,
            then,
        });
    }

    /// The error of the whole call. Who has retried and failed all the same has spent its retries, whatever
    /// ended it.
    fn over(&mut self, error: CallError) -> CallError {
        if self.recovery.retries() > 0 {
            Chain::spent();
        }
        let mut attempts = std::mem::take(&mut self.attempts);
        attempts.extend(error.attempts().iter().cloned());
        let delivered = if self.delivered == Delivered::Maybe { self.delivered } else { error.delivered() };
        error.with_delivered(delivered).with_attempts(attempts).with_service(&self.shared.service)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::Request;
    use http_body_util::Full;
    use meshwork_core::{ServiceName, Watch};

    use super::*;

    #[tokio::test]
    async fn the_future_of_a_call_stays_small_enough_to_box_for_each() {
        let watch = Watch::fixed(Arc::from([]));
        let service = ServiceName::new("users").unwrap();
        let shared = Shared::new(service, watch, crate::ClientConfig::default());
        let request = Request::new(Full::new(Bytes::new()));
        let call = begin(shared, Arc::default(), &Inherited::default(), request).unwrap().run(());
        // With the channel, what allocators keep at hand for each thread (glibc: up to 1 032 bytes).
        assert!(size_of_val(&call) <= 1024, "{}", size_of_val(&call));
    }
}
