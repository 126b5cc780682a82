//! Long limits of calls, kept in one list per cluster instead of one timer per call.
//!
//! A limit of seconds nearly never passes; setting and clearing a timer for it costs more than choosing an
//! instance. The cluster's pulse looks through the list at each beat, so a limit passes at most one beat late.

use std::{
    future::Future,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::Instant;

/// Limits shorter than this are worth a timer of their own: a beat is too coarse for them.
const LONG: Duration = Duration::from_secs(2);

/// More places than this are given back once none is taken.
const KEPT: usize = 1024;

/// The limits of the calls in flight.
#[derive(Default)]
pub(crate) struct Expiry(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    taken: Vec<Option<Slot>>,
    free: Vec<usize>,
}

struct Slot {
    at: Instant,
    passed: bool,
    waker: Waker,
}

/// A future that ends with `None` when its limit passed.
pub(crate) struct Within<'a, F> {
    expiry: &'a Expiry,
    at: Instant,
    place: Option<usize>,
    future: F,
}

impl Expiry {
    /// Whether a limit at `at` is long enough to be kept here.
    pub(crate) fn is_for(now: Instant, at: Instant) -> bool {
        at.saturating_duration_since(now) >= LONG
    }

    /// `future`, until `at` and at most one beat longer. It must be `Unpin`: pin it first.
    ///
    /// # Cancel safety
    /// That of `future`.
    pub(crate) fn within<F: Future + Unpin>(&self, at: Instant, future: F) -> Within<'_, F> {
        Within { expiry: self, at, place: None, future }
    }

    /// Wakes the calls whose limit passed.
    pub(crate) fn sweep(&self, now: Instant) {
        for slot in self.slots().taken.iter_mut().flatten().filter(|slot| slot.at <= now) {
            slot.passed = true;
            slot.waker.wake_by_ref();
        }
    }

    /// Whether no call is in the list.
    pub(crate) fn is_empty(&self) -> bool {
        let slots = self.slots();
        slots.taken.len() == slots.free.len()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whom to wake; says whether the limit has passed.
    fn note(&self, place: &mut Option<usize>, at: Instant, waker: &Waker) -> bool {
        let mut slots = self.slots();
        match *place {
            Some(place) => {
                let Some(slot) = &mut slots.taken[place] else { return false };
                if !slot.waker.will_wake(waker) {
                    slot.waker = waker.clone();
                }
                slot.passed
            }
            None => {
                let slot = Some(Slot { at, passed: false, waker: waker.clone() });
                *place = Some(match slots.free.pop() {
                    Some(free) => {
                        slots.taken[free] = slot;
                        free
                    }
                    None => {
                        slots.taken.push(slot);
                        slots.taken.len() - 1
                    }
                });
                false
            }
        }
    }
}

impl<F: Future + Unpin> Future for Within<'_, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        if let Poll::Ready(output) = Pin::new(&mut self.future).poll(cx) {
            return Poll::Ready(Some(output));
        }
        let Self { expiry, at, place, .. } = &mut *self;
        if expiry.note(place, *at, cx.waker()) { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl<F> Drop for Within<'_, F> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let mut slots = self.expiry.slots();
            slots.taken[place] = None;
            slots.free.push(place);
            if slots.taken.len() > KEPT && slots.free.len() == slots.taken.len() {
                *slots = Slots::default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_at_the_first_sweep_after_its_limit_and_leaves_its_place() {
        let (expiry, now) = (Expiry::default(), Instant::now());
        let at = now + LONG;
        assert!(Expiry::is_for(now, at) && !Expiry::is_for(now, at - Duration::from_millis(1)));
        let mut one = expiry.within(at, pending::<()>());
        let mut two = expiry.within(at + LONG, pending::<()>());
        assert!((&mut one).now_or_never().is_none() && (&mut two).now_or_never().is_none());
        expiry.sweep(now + LONG / 2);
        assert!((&mut one).now_or_never().is_none());
        expiry.sweep(at);
        assert_eq!((&mut one).now_or_never(), Some(None));
        assert!((&mut two).now_or_never().is_none());
        drop((one, two));
        assert!(expiry.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_ready_takes_no_place() {
        let expiry = Expiry::default();
        assert_eq!(expiry.within(Instant::now(), ready(7)).await, Some(7));
        assert!(expiry.slots().taken.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_room_of_a_crowd_is_given_back_with_the_last_of_it() {
        let expiry = Expiry::default();
        let crowd = || {
            let mut calls: Vec<_> =
                (0..=KEPT).map(|_| expiry.within(Instant::now() + LONG, pending::<()>())).collect();
            assert!(calls.iter_mut().all(|call| call.now_or_never().is_none()));
            calls
        };
        let mut calls = crowd();
        let last = calls.pop();
        drop(calls);
        assert_eq!(expiry.slots().taken.len(), KEPT + 1);
        drop(last);
        {
            let slots = expiry.slots();
            assert_eq!((slots.taken.capacity(), slots.free.capacity()), (0, 0));
        }
        assert!(expiry.is_empty());
        drop(crowd());
    }

    #[tokio::test(start_paused = true)]
    async fn the_waiting_task_is_woken() {
        let expiry = std::sync::Arc::new(Expiry::default());
        let at = Instant::now() + LONG;
        let task = tokio::spawn({
            let expiry = std::sync::Arc::clone(&expiry);
            async move { expiry.within(at, pending::<()>()).await }
        });
        tokio::task::yield_now().await;
        assert!(!expiry.is_empty());
        expiry.sweep(at);
        assert_eq!(task.await.unwrap(), None);
    }
}
