//! Work that only so many calls have at a time, while the others wait inside: a service that is saturated.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};

/// Workers that do one call each, in the order in which the calls came.
///
/// Their capacity is exact: whoever waited begins when the worker's last call was to end, not when a timer of the
/// runtime noticed, which would cost a tenth of a capacity of 10 ms a call. They are a database elsewhere, which does
/// not slow down because this process is slow to hear of it.
#[derive(Debug)]
pub(crate) struct Workers {
    turns: Semaphore,
    free_since: Mutex<Vec<Instant>>,
}

/// One of them at work; dropped, it is free.
struct Worker<'a> {
    workers: &'a Workers,
    free: Instant,
}

impl Workers {
    /// So many, all free.
    pub(crate) fn new(count: usize) -> Self {
        Self { turns: Semaphore::new(count), free_since: Mutex::new(vec![Instant::now(); count]) }
    }

    /// Waits for a turn and works so long.
    ///
    /// # Cancel safety
    /// Dropping the future frees the worker, or the place in the queue.
    pub(crate) async fn work(&self, time: Duration) {
        let came = Instant::now();
        let Ok(_turn) = self.turns.acquire().await else { return };
        let mut worker = self.take();
        worker.free = worker.free.max(came) + time;
        sleep_until(worker.free).await;
    }

    fn take(&self) -> Worker<'_> {
        let mut all = self.free_since.lock().unwrap_or_else(PoisonError::into_inner);
        let first = all.iter().enumerate().min_by_key(|(_, free)| **free).map(|(place, _)| place);
        let free = first.map_or_else(Instant::now, |place| all.swap_remove(place));
        Worker { workers: self, free }
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        // One that was cancelled in the middle is free now.
        let free = self.free.min(Instant::now());
        self.workers.free_since.lock().unwrap_or_else(PoisonError::into_inner).push(free);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn they_do_so_much_and_no_more_and_are_free_again_when_callers_go() {
        let (workers, begun) = (Arc::new(Workers::new(4)), Instant::now());
        let call = || {
            let workers = Arc::clone(&workers);
            tokio::spawn(async move { workers.work(Duration::from_micros(10_300)).await })
        };
        let calls: Vec<_> = (0..400).map(|_| call()).collect();
        for call in calls {
            call.await.unwrap();
        }
        let (took, exact) = (begun.elapsed(), Duration::from_micros(1_030_000));
        assert!((exact..exact + Duration::from_millis(2)).contains(&took), "{took:?}");
        let calls: Vec<_> = (0..40).map(|_| call()).collect();
        tokio::task::yield_now().await;
        calls.iter().for_each(tokio::task::JoinHandle::abort);
        for call in calls {
            call.await.unwrap_err();
        }
        let begun = Instant::now();
        workers.work(Duration::from_millis(5)).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(5));
    }
}
