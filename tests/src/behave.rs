//! How the handlers of an `actor` process behave, which is changed while it runs, and how often they were called.
//!
//! Scenarios reach it by [`Controls`], at the process's own address and not through the mesh: a proxy, an ejection
//! or a limit in between must not decide whether a fault happens.

use std::{
    hash::{BuildHasher, RandomState},
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::{Result, http1, workers::Workers};

/// Measured service times in milliseconds, as evenly spaced quantiles; the file says where they come from.
const MEASURED: &str = include_str!("../../crates/balance/tests/data/service_times.txt");

/// What the handlers of `Get`, `/work` and `/effect` do with each call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// How long an answer takes.
    pub work: Work,
    /// What some calls take more.
    pub hiccup: Option<Hiccup>,
    /// How calls fail that do.
    pub fault: Option<Fault>,
    /// So many are worked on at a time, and the others wait inside; 0: all that come.
    pub workers: usize,
}

/// How long an answer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// 10 ms ± 2, evenly.
    #[default]
    Usual,
    /// No time.
    Echo,
    /// From so many to so many microseconds, evenly.
    Between(u64, u64),
    /// As long as a real service took: about 167 ms, 164 to 200.
    Measured,
}

/// What one of so many calls, drawn at random, takes more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hiccup {
    /// Microseconds.
    pub micros: u64,
    /// One of so many; 0 is none.
    pub one_in: u64,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which part of the calls, drawn at random, 0.0 to 1.0.
    pub share: f64,
    /// The gRPC code that `Get` fails with.
    pub code: i32,
    /// The status that HTTP handlers answer.
    pub status: u16,
    /// After how many microseconds, instead of the work.
    pub micros: u64,
}

/// How often each handler was called since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Served {
    /// gRPC `Get`.
    pub get: Counts,
    /// `GET /work`.
    pub work: Counts,
    /// `POST /effect`: its `entered` is how often the effect happened.
    pub effect: Counts,
}

/// The calls of one handler; those neither answered nor failed run, or were cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Begun.
    pub entered: u64,
    /// Done well.
    pub answered: u64,
    /// Failed as the [`Fault`] says.
    pub failed: u64,
}

/// A handler whose calls are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// gRPC `Get`.
    Get,
    /// `GET /work`.
    Work,
    /// `POST /effect`.
    Effect,
}

/// The behaviour of the moment and the counts of one process; its handlers share it.
#[derive(Debug)]
pub struct Conduct {
    behaviour: RwLock<Behaviour>,
    workers: RwLock<Option<Arc<Workers>>>,
    measured: Vec<f64>,
    dice: AtomicU64,
    tallies: [Tally; 3],
}

#[derive(Debug, Default)]
struct Tally {
    entered: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
}

/// The door of a scenario to one process.
#[derive(Clone, Copy, Debug)]
pub struct Controls {
    addr: SocketAddr,
}

// === impl Behaviour ===

impl Behaviour {
    /// Answers take this long, to the microsecond.
    #[must_use]
    pub fn taking(self, time: Duration) -> Self {
        self.working(Work::Between(micros(time), micros(time)))
    }

    /// Answers take as long as `work` says.
    #[must_use]
    pub fn working(self, work: Work) -> Self {
        Self { work, ..self }
    }

    /// At most so many are worked on at a time.
    #[must_use]
    pub fn by_workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// One of `one_in` calls takes `time` more.
    #[must_use]
    pub fn with_hiccup(self, time: Duration, one_in: u64) -> Self {
        Self { hiccup: Some(Hiccup { micros: micros(time), one_in }), ..self }
    }

    /// This part of the calls, 0.0 to 1.0, fails after `time`: UNAVAILABLE over gRPC, 503 over HTTP.
    #[must_use]
    pub fn failing(self, share: f64, time: Duration) -> Self {
        let code = tonic::Code::Unavailable as i32;
        Self { fault: Some(Fault { share, code, status: 503, micros: micros(time) }), ..self }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

// === impl Conduct ===

impl Default for Conduct {
    fn default() -> Self {
        let numbers = MEASURED.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace);
        Self {
            behaviour: RwLock::default(),
            workers: RwLock::default(),
            measured: numbers.filter_map(|text| text.parse().ok()).collect(),
            dice: AtomicU64::new(RandomState::new().hash_one(())),
            tallies: Default::default(),
        }
    }
}

impl Conduct {
    /// Calls that begin from now on are treated so.
    pub fn behave(&self, behaviour: Behaviour) {
        let mut before = self.behaviour.write().unwrap_or_else(PoisonError::into_inner);
        if before.workers != behaviour.workers {
            let workers = (behaviour.workers > 0).then(|| Arc::new(Workers::new(behaviour.workers)));
            *self.workers.write().unwrap_or_else(PoisonError::into_inner) = workers;
        }
        *before = behaviour;
    }

    /// How often each handler was called so far.
    pub fn served(&self) -> Served {
        let [get, work, effect] = self.tallies.each_ref().map(Tally::read);
        Served { get, work, effect }
    }

    /// One call of `handler`: works as long as it should, or fails as it should.
    ///
    /// # Errors
    /// The fault, when this call is to fail.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the call entered and neither answered nor failed.
    pub async fn call(&self, handler: Handler) -> Result<(), Fault> {
        let begun = Instant::now();
        let tally = &self.tallies[handler as usize];
        tally.entered.fetch_add(1, Ordering::Relaxed);
        let behaviour = *self.behaviour.read().unwrap_or_else(PoisonError::into_inner);
        let fault = behaviour.fault.filter(|fault| self.unit() < fault.share);
        let mut time = match fault {
            Some(fault) => fault.micros,
            None => self.time(behaviour.work),
        };
        if let Some(hiccup) = behaviour.hiccup.filter(|hiccup| hiccup.one_in > 0) {
            time += if self.roll().is_multiple_of(hiccup.one_in) { hiccup.micros } else { 0 };
        }
        let time = Duration::from_micros(time);
        let workers = self.workers.read().unwrap_or_else(PoisonError::into_inner).clone();
        match workers {
            Some(workers) => workers.work(time).await,
            None if time.is_zero() => {}
            None => sleep_until(begun + time).await,
        }
        let outcome = if fault.is_some() { &tally.failed } else { &tally.answered };
        outcome.fetch_add(1, Ordering::Relaxed);
        fault.map_or(Ok(()), Err)
    }

    fn time(&self, work: Work) -> u64 {
        match work {
            Work::Usual => self.between(8_000, 12_000),
            Work::Echo => 0,
            Work::Between(least, most) => self.between(least, most),
            Work::Measured => {
                let at = self.unit() * (self.measured.len() - 1) as f64;
                let (low, high) = (self.measured[at as usize], self.measured[at as usize + 1]);
                ((low + (high - low) * at.fract()) * 1e3) as u64
            }
        }
    }

    fn between(&self, least: u64, most: u64) -> u64 {
        least + (self.unit() * most.saturating_sub(least) as f64) as u64
    }

    /// In 0..1, never 1.
    fn unit(&self) -> f64 {
        (self.roll() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// splitmix64 (Steele et al. 2014), whose state is a counter that threads can share.
    fn roll(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut mixed = self.dice.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Tally {
    fn read(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts { entered: read(&self.entered), answered: read(&self.answered), failed: read(&self.failed) }
    }
}

// === impl Controls ===

impl Controls {
    /// The door of the process that listens here for HTTP.
    pub fn of(addr: SocketAddr) -> Self {
        Self { addr }
    }

    /// Calls that begin after this has returned are treated so.
    ///
    /// # Errors
    /// When the process does not answer, or does not understand.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether it was told.
    pub async fn behave(&self, behaviour: Behaviour) -> Result<()> {
        let body = serde_json::to_string(&behaviour)?;
        let answer = http1::post(self.addr, "/behave", &body).await?;
        match answer.status {
            200 => Ok(()),
            status => Err(format!("telling {} to behave: {status} {}", self.addr, answer.body).into()),
        }
    }

    /// How often its handlers were called so far.
    ///
    /// # Errors
    /// When the process does not answer.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn served(&self) -> Result<Served> {
        Ok(serde_json::from_str(&http1::get(self.addr, "/served").await?.body)?)
    }
}
