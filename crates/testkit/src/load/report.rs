//! What became of the calls.

use std::{collections::BTreeMap, fmt, time::Duration};

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// One call that has begun.
#[derive(Clone, Debug)]
pub struct Call<T, E> {
    /// Its number, from 0, in the order of the intended times.
    pub number: u64,
    /// When it was meant to begin; its latency counts from here.
    pub intended: Instant,
    /// When it began.
    pub began: Instant,
    /// When it ended, or was cut.
    pub ended: Instant,
    /// How.
    pub outcome: Outcome<T, E>,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T, E> {
    /// With an answer.
    Answered(T),
    /// With an error.
    Failed(E),
    /// Not at all within the grace after the last call; it counts as failed.
    Unfinished,
}

/// What became of all calls of a load, ordered by number.
#[derive(Clone, Debug)]
pub struct Report<T, E> {
    begun: Instant,
    calls: Vec<Call<T, E>>,
    latencies: Histogram<u64>,
    lateness: Histogram<u64>,
}

// === impl Call ===

impl<T, E> Call<T, E> {
    /// From the intended begin to the end.
    pub fn latency(&self) -> Duration {
        self.ended.duration_since(self.intended)
    }

    /// The answer, if there was one.
    pub fn answer(&self) -> Option<&T> {
        match &self.outcome {
            Outcome::Answered(answer) => Some(answer),
            Outcome::Failed(_) | Outcome::Unfinished => None,
        }
    }

    /// Whether the caller got no answer.
    pub fn is_failed(&self) -> bool {
        self.answer().is_none()
    }
}

// === impl Report ===

impl<T, E> Report<T, E> {
    /// `intended` has the time of every call that has begun; those not among `ended` are unfinished.
    pub(super) fn new(begun: Instant, intended: Vec<Instant>, mut ended: Vec<Call<T, E>>) -> Self {
        ended.sort_by_key(|call| call.number);
        let now = Instant::now();
        let mut ended = ended.into_iter().peekable();
        let calls: Vec<Call<T, E>> = (0..)
            .zip(intended)
            .map(|(number, intended)| {
                ended.next_if(|call| call.number == number).unwrap_or(Call {
                    number,
                    intended,
                    began: intended,
                    ended: now,
                    outcome: Outcome::Unfinished,
                })
            })
            .collect();
        let (mut latencies, mut lateness) = (micros(), micros());
        for call in &calls {
            latencies.saturating_record(as_micros(call.latency()));
            lateness.saturating_record(as_micros(call.began.duration_since(call.intended)));
        }
        Self { begun, calls, latencies, lateness }
    }

    /// When the load began.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// All calls that have begun.
    pub fn calls(&self) -> &[Call<T, E>] {
        &self.calls
    }

    /// How many got no answer.
    pub fn failed(&self) -> usize {
        self.failures().count()
    }

    /// Those that got no answer, with their times.
    pub fn failures(&self) -> impl Iterator<Item = &Call<T, E>> {
        self.calls.iter().filter(|call| call.is_failed())
    }

    /// Those that were under way at that moment.
    pub fn in_flight_at(&self, moment: Instant) -> impl Iterator<Item = &Call<T, E>> {
        self.calls.iter().filter(move |call| call.began <= moment && moment < call.ended)
    }

    /// Those that were meant to begin from then on.
    pub fn since(&self, moment: Instant) -> impl Iterator<Item = &Call<T, E>> {
        self.calls.iter().filter(move |call| call.intended >= moment)
    }

    /// How many answers each key has, for instance each instance that answered.
    pub fn shares<K: Ord>(&self, key: impl Fn(&T) -> K) -> BTreeMap<K, usize> {
        let mut shares = BTreeMap::new();
        for answer in self.calls.iter().filter_map(Call::answer) {
            *shares.entry(key(answer)).or_default() += 1;
        }
        shares
    }

    /// The latency that a share of all calls did not exceed; `0.5` is the median, `1.0` the longest. To 0.1 %, at most
    /// one hour, failed calls included.
    pub fn latency(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.latencies.value_at_quantile(quantile))
    }

    /// The median latency.
    pub fn p50(&self) -> Duration {
        self.latency(0.5)
    }

    /// The latency that 99 % of all calls did not exceed.
    pub fn p99(&self) -> Duration {
        self.latency(0.99)
    }

    /// The longest latency.
    pub fn max(&self) -> Duration {
        self.latency(1.0)
    }

    /// How much later than intended calls began: what the generator itself adds to the latencies. The timer of the
    /// runtime alone makes about 1 ms.
    pub fn lateness(&self, quantile: f64) -> Duration {
        Duration::from_micros(self.lateness.value_at_quantile(quantile))
    }
}

/// One line: `calls 5000  failed 0  p50 10.2 ms  p99 12.0 ms  max 14.9 ms  late p99 1.1 ms`.
impl<T, E> fmt::Display for Report<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        write!(
            f,
            "calls {}  failed {}  p50 {:.1} ms  p99 {:.1} ms  max {:.1} ms  late p99 {:.1} ms",
            self.calls.len(),
            self.failed(),
            ms(self.p50()),
            ms(self.p99()),
            ms(self.max()),
            ms(self.lateness(0.99)),
        )
    }
}

fn micros() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("invariant: the bounds are in order")
}

fn as_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
