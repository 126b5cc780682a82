//! A concurrency limit with a bounded queue.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{self, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    sync::oneshot,
    time::{self, Instant, Sleep},
};

use crate::{Full, Overload};

/// What a refusal asks for before another attempt.
const PAUSE: Duration = Duration::from_millis(10);

/// Who is next when a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Order {
    /// The one that waits longest; one too many is refused. Fair, and right while the queue is short.
    #[default]
    Fifo,
    /// The newest; one too many displaces the oldest. Under lasting overload it serves calls whose callers still
    /// wait, where FIFO serves all of them too late ("Fail at Scale", Maurer, ACM Queue 2015).
    Lifo,
}

/// How many calls run, and how many wait for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatePolicy {
    /// Calls that run at a time, 1 and up (0 counts as 1).
    pub limit: usize,
    /// Calls that wait, 0 and up. Default 1 024.
    pub waiting: usize,
    /// The longest wait, whatever the call's deadline. Default 1 s.
    pub longest: Duration,
    /// Who is next. Default [`Order::Fifo`].
    pub order: Order,
}

impl GatePolicy {
    /// `limit` calls at a time, the rest by default.
    pub fn new(limit: usize) -> Self {
        Self { limit, waiting: 1024, longest: Duration::from_secs(1), order: Order::default() }
    }
}

/// A concurrency limit with a bounded queue; a clone is the same gate.
///
/// A permit that is free costs a short lock and no allocation. A waiting call gives up at its deadline, and one
/// whose deadline has passed is passed over.
///
/// ```
/// use meshwork_resilience::limit::{Gate, GatePolicy};
/// let gate = Gate::new(GatePolicy::new(1));
/// let permit = gate.try_acquire().expect("nobody is inside");
/// assert!(gate.try_acquire().is_none());
/// drop(permit);
/// assert!(gate.try_acquire().is_some());
/// ```
#[derive(Clone)]
pub struct Gate(Arc<Shared>);

struct Shared {
    policy: GatePolicy,
    state: Mutex<State>,
}

struct State {
    free: usize,
    /// The next place in the queue.
    next: u64,
    waiting: BTreeMap<u64, Waiter>,
}

struct Waiter {
    turn: oneshot::Sender<Result<Permit, Overload>>,
    ends: Instant,
}

impl Gate {
    /// A gate with nobody inside.
    pub fn new(policy: GatePolicy) -> Self {
        let policy = GatePolicy { limit: policy.limit.max(1), ..policy };
        let state = State { free: policy.limit, next: 0, waiting: BTreeMap::new() };
        Self(Arc::new(Shared { policy, state: Mutex::new(state) }))
    }

    /// A permit if one is free.
    pub fn try_acquire(&self) -> Option<Permit> {
        let mut state = self.0.state();
        state.free = state.free.checked_sub(1)?;
        Some(Permit(Some(Arc::clone(&self.0))))
    }

    /// A permit, at the latest at `ends`.
    ///
    /// # Errors
    /// [`Full::Queue`] or, LIFO, [`Full::Displaced`] when too many wait; [`Full::Wait`] when no turn came in time.
    ///
    /// # Panics
    /// When it has to wait outside of a tokio runtime with timers.
    ///
    /// # Cancel safety
    /// Dropping the future gives up its place, or the permit it was just given, to the next one.
    pub fn acquire(&self, ends: Option<Instant>) -> Acquire {
        if let Some(permit) = self.try_acquire() {
            return Acquire { state: Turn::Known { outcome: Some(Ok(permit)) } };
        }
        let now = Instant::now();
        let longest = now.checked_add(self.0.policy.longest);
        let Some(ends) = ends.into_iter().chain(longest).min() else {
            return Acquire::refused(Full::Queue);
        };
        if ends <= now {
            return Acquire::refused(Full::Wait);
        }
        let (turn, given) = oneshot::channel();
        let mut state = self.0.state();
        // A permit may have become free since; then nobody would wake the first of the queue.
        if state.free > 0 {
            state.free -= 1;
            drop(state);
            let permit = Permit(Some(Arc::clone(&self.0)));
            return Acquire { state: Turn::Known { outcome: Some(Ok(permit)) } };
        }
        let mut displaced = None;
        if state.waiting.len() >= self.0.policy.waiting {
            if self.0.policy.order == Order::Lifo {
                displaced = state.waiting.pop_first();
            }
            if displaced.is_none() {
                return Acquire::refused(Full::Queue);
            }
        }
        let place = state.next;
        state.next += 1;
        state.waiting.insert(place, Waiter { turn, ends });
        drop(state);
        if let Some((_, displaced)) = displaced {
            // Sent to nobody if it was dropped in this moment.
            let _gone = displaced.turn.send(Err(Overload::new(Full::Displaced, PAUSE)));
        }
        let place = Place { shared: Arc::clone(&self.0), place };
        Acquire { state: Turn::Waiting { given, sleep: time::sleep_until(ends), _place: place } }
    }

    /// How many calls wait.
    pub fn waiting(&self) -> usize {
        self.0.state().waiting.len()
    }

    /// How many calls run.
    pub fn running(&self) -> usize {
        self.0.policy.limit - self.0.state().free
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (running, waiting) = (self.running(), self.waiting());
        f.debug_struct("Gate").field("running", &running).field("waiting", &waiting).finish_non_exhaustive()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next waiter out of the queue; with none the permit is free again.
    fn next(&self) -> Option<Waiter> {
        let mut state = self.state();
        let next = match self.policy.order {
            Order::Fifo => state.waiting.pop_first(),
            Order::Lifo => state.waiting.pop_last(),
        };
        if next.is_none() {
            state.free += 1;
        }
        next.map(|(_, waiter)| waiter)
    }
}

/// The right to run; dropping it lets the next one in.
pub struct Permit(Option<Arc<Shared>>);

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(mut shared) = self.0.take() else { return };
        while let Some(waiter) = shared.next() {
            if waiter.ends <= Instant::now() {
                let _gone = waiter.turn.send(Err(Overload::new(Full::Wait, PAUSE)));
                continue;
            }
            match waiter.turn.send(Ok(Permit(Some(shared)))) {
                Ok(()) => return,
                // Its call was dropped in this moment: the permit comes back and goes to the one after it.
                Err(Ok(mut permit)) => match permit.0.take() {
                    Some(back) => shared = back,
                    None => return,
                },
                Err(Err(_)) => return,
            }
        }
    }
}

/// A place in the queue; given up when dropped.
struct Place {
    shared: Arc<Shared>,
    place: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let waiter = self.shared.state().waiting.remove(&self.place);
        drop(waiter);
    }
}

pin_project! {
    /// The future of [`Gate::acquire`].
    pub struct Acquire {
        #[pin]
        state: Turn,
    }
}

pin_project! {
    #[project = Projected]
    enum Turn {
        Known { outcome: Option<Result<Permit, Overload>> },
        Waiting {
            #[pin] given: oneshot::Receiver<Result<Permit, Overload>>,
            #[pin] sleep: Sleep,
            _place: Place,
        },
    }
}

impl Acquire {
    fn refused(why: Full) -> Self {
        Self { state: Turn::Known { outcome: Some(Err(Overload::new(why, PAUSE))) } }
    }
}

impl Future for Acquire {
    type Output = Result<Permit, Overload>;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            Projected::Known { outcome } => {
                Poll::Ready(outcome.take().expect("invariant: not polled after its end"))
            }
            Projected::Waiting { given, sleep, .. } => {
                if let Poll::Ready(turn) = given.poll(cx) {
                    let late = || Err(Overload::new(Full::Wait, PAUSE));
                    return Poll::Ready(turn.unwrap_or_else(|_closed| late()));
                }
                task::ready!(sleep.poll(cx));
                Poll::Ready(Err(Overload::new(Full::Wait, PAUSE)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::join_all};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn gate(limit: usize, waiting: usize, order: Order) -> Gate {
        Gate::new(GatePolicy { waiting, order, ..GatePolicy::new(limit) })
    }

    /// Lets `calls` wait one after the other, then ends the running one; the order in which they run.
    async fn served(gate: &Gate, calls: usize) -> Vec<Result<usize, Full>> {
        let running = gate.try_acquire().unwrap();
        let order = Mutex::new(Vec::new());
        let waits: Vec<Acquire> = (0..calls).map(|_| gate.acquire(None)).collect();
        let calls = waits.into_iter().enumerate().map(|(nth, wait)| {
            let order = &order;
            async move {
                let came = wait.await;
                order.lock().unwrap().push(came.as_ref().map(|_| nth).map_err(Overload::why));
            }
        });
        futures_util::join!(join_all(calls), async { drop(running) });
        order.into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_or_the_newest_is_next_as_asked() {
        assert_eq!(served(&gate(1, 8, Order::Fifo), 3).await, [Ok(0), Ok(1), Ok(2)]);
        assert_eq!(served(&gate(1, 8, Order::Lifo), 3).await, [Ok(2), Ok(1), Ok(0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_too_many_is_refused_or_displaces_the_oldest() {
        let refused = served(&gate(1, 2, Order::Fifo), 3).await;
        assert!(refused.contains(&Err(Full::Queue)) && refused.contains(&Ok(0)), "{refused:?}");
        let displaced = served(&gate(1, 2, Order::Lifo), 3).await;
        assert!(displaced.contains(&Err(Full::Displaced)) && displaced.contains(&Ok(2)), "{displaced:?}");
        let nobody = gate(1, 0, Order::Lifo);
        let _inside = nobody.try_acquire();
        assert_eq!(nobody.acquire(None).await.unwrap_err().why(), Full::Queue);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_gives_up_at_its_deadline_and_leaves_its_place() {
        let gate = gate(1, 1, Order::Fifo);
        let inside = gate.try_acquire().unwrap();
        let began = Instant::now();
        let late = gate.acquire(Some(began + 20 * MS)).await.unwrap_err();
        assert_eq!((late.why(), began.elapsed()), (Full::Wait, 20 * MS));
        assert_eq!(gate.waiting(), 0);
        let longest = gate.acquire(None).await.unwrap_err();
        assert_eq!((longest.why(), began.elapsed()), (Full::Wait, 1020 * MS));
        assert_eq!(gate.acquire(Some(began)).await.unwrap_err().why(), Full::Wait, "no time at all");
        drop(inside);
        assert_eq!((gate.running(), gate.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_too_late_is_passed_over() {
        let gate = gate(1, 8, Order::Fifo);
        let inside = gate.try_acquire().unwrap();
        let early = gate.acquire(Some(Instant::now() + 5 * MS));
        let patient = gate.acquire(None);
        time::advance(10 * MS).await;
        drop(inside);
        let permit = patient.now_or_never().expect("its turn").unwrap();
        assert_eq!(early.now_or_never().expect("known").unwrap_err().why(), Full::Wait);
        drop(permit);
        assert_eq!(gate.running(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_permit_is_lost_whoever_is_dropped() {
        let gate = gate(2, 8, Order::Fifo);
        let inside = [gate.try_acquire().unwrap(), gate.try_acquire().unwrap()];
        let mut waits: Vec<Acquire> = (0..5).map(|_| gate.acquire(None)).collect();
        drop(waits.remove(1));
        assert_eq!(gate.waiting(), 4);
        drop(inside);
        // Two were given their permits and never asked for them.
        drop(waits);
        assert_eq!((gate.running(), gate.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_permit_for_one_who_is_just_gone_goes_to_the_next() {
        let gate = gate(1, 8, Order::Fifo);
        let inside = gate.try_acquire().unwrap();
        // As between the two steps in which a waiting call is dropped.
        let (turn, gone) = oneshot::channel();
        drop(gone);
        gate.0.state().waiting.insert(0, Waiter { turn, ends: Instant::now() + 1000 * MS });
        gate.0.state().next = 1;
        let next = gate.acquire(None);
        drop(inside);
        drop(next.now_or_never().expect("its turn").unwrap());
        assert_eq!((gate.running(), gate.waiting()), (0, 0));
    }

    #[test]
    fn threads_leave_nothing_behind() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
        let gate = gate(3, 64, Order::Lifo);
        runtime.block_on(async {
            let calls = (0..500u64).map(|nth| {
                let gate = gate.clone();
                tokio::spawn(async move {
                    let ends = Instant::now() + Duration::from_micros(nth % 700);
                    if let Ok(_permit) = gate.acquire(Some(ends)).await {
                        assert!(gate.running() <= 3);
                        tokio::task::yield_now().await;
                    }
                })
            });
            for call in join_all(calls).await {
                call.unwrap();
            }
        });
        assert_eq!((gate.running(), gate.waiting()), (0, 0));
    }
}
