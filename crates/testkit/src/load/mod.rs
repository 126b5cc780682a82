//! Open-loop load: calls begin at the times of a Poisson process, whether earlier ones have ended or not.
//!
//! Latency counts from the time at which a call was meant to begin. A closed loop, which waits for answers, would stop
//! asking just while the system is slow, and would not see what its users see.

mod report;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::{JoinHandle, JoinSet},
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

pub use self::report::{Call, Outcome, Report};

/// A plan of calls. It is bounded in count and in time.
#[derive(Clone, Debug)]
#[must_use = "nothing is called before `run` or `start`"]
pub struct Load {
    rate: f64,
    calls: u64,
    lasting: Duration,
    seed: u64,
    in_flight: usize,
    grace: Duration,
}

/// Load that runs in the background. Dropping it cuts every call.
#[derive(Debug)]
pub struct RunningLoad<T, E> {
    driver: JoinHandle<Report<T, E>>,
    stop: CancellationToken,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
}

// === impl Load ===

impl Load {
    /// So many calls per second on average, for 10 s and at most 1 000 000 calls unless said otherwise.
    ///
    /// # Panics
    /// When `per_second` is not a number above zero.
    pub fn rate(per_second: f64) -> Self {
        assert!(per_second.is_finite() && per_second > 0.0, "a rate of {per_second} calls/s makes no load");
        Self {
            rate: per_second,
            calls: 1_000_000,
            lasting: Duration::from_secs(10),
            seed: 1,
            in_flight: 10_000,
            grace: Duration::from_secs(10),
        }
    }

    /// At most so many calls. They are all kept in the report.
    pub fn calls(mut self, calls: u64) -> Self {
        self.calls = calls;
        self
    }

    /// Calls begin for so long; `Duration::MAX` leaves the bound to [`calls`](Self::calls).
    pub fn lasting(mut self, lasting: Duration) -> Self {
        self.lasting = lasting;
        self
    }

    /// Another course of arrivals. The same seed gives the same intended times.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// At most so many calls at a time, 10 000 by default. Those beyond wait, which counts as their latency.
    pub fn in_flight(mut self, in_flight: usize) -> Self {
        self.in_flight = in_flight.max(1);
        self
    }

    /// After the last call began, so long is waited for answers, 10 s by default; the rest is cut and counts as failed.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Makes all calls, each given its number from 0, and reports.
    ///
    /// # Panics
    /// With the panic of a call.
    ///
    /// # Cancel safety
    /// Dropping the future cuts every call.
    pub async fn run<C, F, T, E>(self, call: C) -> Report<T, E>
    where
        C: Fn(u64) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        self.start(call).report().await
    }

    /// Begins in the background, so that faults can be made meanwhile.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn start<C, F, T, E>(self, call: C) -> RunningLoad<T, E>
    where
        C: Fn(u64) -> F + Send + Sync + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let stop = CancellationToken::new();
        let counts = Arc::new(Counts::default());
        let driver = tokio::spawn(self.drive(call, stop.clone(), Arc::clone(&counts)));
        RunningLoad { driver, stop, counts }
    }

    async fn drive<C, F, T, E>(self, call: C, stop: CancellationToken, counts: Arc<Counts>) -> Report<T, E>
    where
        C: Fn(u64) -> F,
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
    {
        let begun = Instant::now();
        let mut arrivals = Arrivals::new(self.seed, self.rate);
        let mut next = begun + arrivals.gap();
        let mut begun_calls: Vec<Instant> = Vec::new();
        let mut running = JoinSet::new();
        let mut ended: Vec<Call<T, E>> = Vec::new();
        loop {
            let number = begun_calls.len() as u64;
            if number >= self.calls || next.duration_since(begun) > self.lasting {
                break;
            }
            tokio::select! {
                biased; // Calls that are due go first: the generator must not add to their latency.
                () = stop.cancelled() => break,
                () = time::sleep_until(next), if running.len() < self.in_flight => {
                    running.spawn(one(number, next, call(number), Arc::clone(&counts)));
                    begun_calls.push(next);
                    next += arrivals.gap();
                }
                Some(done) = running.join_next() => ended.push(joined(done)),
            }
        }
        let collect = async {
            while let Some(done) = running.join_next().await {
                ended.push(joined(done));
            }
        };
        let _cut_in_the_middle = time::timeout(self.grace, collect).await;
        running.shutdown().await;
        Report::new(begun, begun_calls, ended)
    }
}

async fn one<T, E>(
    number: u64,
    intended: Instant,
    call: impl Future<Output = Result<T, E>>,
    counts: Arc<Counts>,
) -> Call<T, E> {
    let began = Instant::now();
    counts.begun.fetch_add(1, Ordering::Relaxed);
    let outcome = match call.await {
        Ok(answer) => Outcome::Answered(answer),
        Err(error) => {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            Outcome::Failed(error)
        }
    };
    counts.ended.fetch_add(1, Ordering::Relaxed);
    Call { number, intended, began, ended: Instant::now(), outcome }
}

fn joined<R>(done: Result<R, tokio::task::JoinError>) -> R {
    match done {
        Ok(call) => call,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(e) => unreachable!("invariant: nobody cuts a single call: {e}"),
        },
    }
}

// === impl RunningLoad ===

impl<T, E> RunningLoad<T, E> {
    /// How many calls have begun so far.
    pub fn begun(&self) -> u64 {
        self.counts.begun.load(Ordering::Relaxed)
    }

    /// How many calls have failed so far.
    pub fn failed(&self) -> u64 {
        self.counts.failed.load(Ordering::Relaxed)
    }

    /// How many calls are under way.
    pub fn in_flight(&self) -> u64 {
        self.begun().saturating_sub(self.counts.ended.load(Ordering::Relaxed))
    }

    /// Begins no more calls.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end of the plan, or of what was begun before [`stop`](Self::stop), and reports.
    ///
    /// # Panics
    /// With the panic of a call.
    ///
    /// # Cancel safety
    /// Dropping the future cuts every call.
    pub async fn report(mut self) -> Report<T, E> {
        joined((&mut self.driver).await)
    }
}

impl<T, E> Drop for RunningLoad<T, E> {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

// === impl Arrivals ===

/// The gaps of a Poisson process, from a small generator of our own (splitmix64, Steele et al. 2014): the same
/// everywhere, and for ever.
struct Arrivals {
    state: u64,
    rate: f64,
}

impl Arrivals {
    fn new(seed: u64, rate: f64) -> Self {
        Self { state: seed, rate }
    }

    fn gap(&mut self) -> Duration {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        // 53 bits make a number in 0..1, never 1.
        let uniform = (mixed >> 11) as f64 / (1_u64 << 53) as f64;
        Duration::from_secs_f64(-(1.0 - uniform).ln() / self.rate)
    }
}

impl fmt::Debug for Arrivals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").field("rate", &self.rate).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
