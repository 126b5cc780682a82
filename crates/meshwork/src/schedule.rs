//! When something is to be run: every so often, or at the times that a cron pattern names.

#[cfg(feature = "cron")]
mod pattern;

use std::time::Duration;

use meshwork_registry::Dice;
use tokio::time::{Instant, sleep, sleep_until};

/// A time that comes later than this (the process stood still, the clock was set) was missed.
const LATE: Duration = Duration::from_secs(30);
/// The longest wait without a look at the wall clock, which may be set.
const LOOK: Duration = Duration::from_secs(30);
/// Most runs of one schedule at a time.
const MOST: usize = 64;

/// What becomes of a time at which no run could begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Missed {
    /// Nothing: the next time is the next run.
    #[default]
    Skip,
    /// One run as soon as it can begin, however many times were missed.
    Once,
}

/// The times of an [`App::schedule`](crate::App::schedule).
///
/// ```
/// # use std::time::Duration;
/// use meshwork::{Missed, Schedule};
/// let often = Schedule::every(Duration::from_secs(60)).jitter(Duration::from_secs(5));
/// # #[cfg(feature = "cron")]
/// let nightly = Schedule::cron("30 2 * * *").time_zone("Europe/Berlin").missed(Missed::Once);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Schedule {
    when: When,
    jitter: Duration,
    at_once: usize,
    missed: Missed,
}

#[derive(Clone, Debug)]
enum When {
    Every(Duration),
    #[cfg(feature = "cron")]
    Cron(pattern::Pattern),
}

impl Schedule {
    /// Every `period`, for the first time one `period` after the app serves, whatever the wall clock says. More than zero.
    pub fn every(period: Duration) -> Self {
        Self::new(When::Every(period))
    }

    /// At the times of a cron pattern: five fields, or six with seconds before them, or a nickname such as `@daily`. What
    /// is wrong in it is an error of the start that names the place. In UTC unless a
    /// [`time_zone`](Self::time_zone) is given.
    #[cfg(feature = "cron")]
    pub fn cron(pattern: impl Into<String>) -> Self {
        Self::new(When::Cron(pattern::Pattern::new(pattern.into())))
    }

    /// The time zone of a cron pattern by its IANA name, `Europe/Berlin`; `system` for that of the machine. Without meaning
    /// for [`every`](Self::every).
    #[cfg(feature = "cron")]
    pub fn time_zone(mut self, name: impl Into<String>) -> Self {
        if let When::Cron(pattern) = &mut self.when {
            pattern.zone = Some(name.into());
        }
        self
    }

    fn new(when: When) -> Self {
        Self { when, jitter: Duration::ZERO, at_once: 1, missed: Missed::default() }
    }

    /// Begins each run later by up to so much, by chance, so that a fleet does not begin as one. Default none.
    pub fn jitter(mut self, most: Duration) -> Self {
        self.jitter = most;
        self
    }

    /// Lets so many runs be under way at a time, 1 to 64. Default 1: a run never overlaps the one before.
    pub fn overlap(mut self, runs: usize) -> Self {
        self.at_once = runs.clamp(1, MOST);
        self
    }

    /// What becomes of a time that passed while no run could begin. Default [`Missed::Skip`].
    pub fn missed(mut self, policy: Missed) -> Self {
        self.missed = policy;
        self
    }

    pub(crate) fn at_once(&self) -> usize {
        self.at_once
    }

    /// Its times from now on.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub(crate) fn turns(&self) -> Result<Turns, String> {
        let clock = match &self.when {
            When::Every(period) if period.is_zero() => return Err("its period must be longer than 0s".into()),
            When::Every(period) => Clock::Every { period: *period, next: Instant::now() + *period },
            #[cfg(feature = "cron")]
            When::Cron(pattern) => Clock::Cron(Box::new(pattern.times()?)),
        };
        Ok(Turns {
            clock,
            jitter: self.jitter,
            missed: self.missed,
            dice: Dice::new(None),
            due: None,
            owed: false,
        })
    }
}

/// The times of a schedule as they come.
pub(crate) struct Turns {
    clock: Clock,
    jitter: Duration,
    missed: Missed,
    dice: Dice,
    /// When a run that was due begins, after its jitter.
    due: Option<Instant>,
    /// Whether a missed time is to be made up for.
    owed: bool,
}

/// What has come.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Whether a run begins now.
    pub(crate) is_run: bool,
    /// How many times have passed without one.
    pub(crate) missed: u64,
}

enum Clock {
    Every {
        period: Duration,
        next: Instant,
    },
    #[cfg(feature = "cron")]
    Cron(Box<pattern::Times>),
}

impl Turns {
    /// Waits for the next turn; `is_free` says whether a run could begin.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn next(&mut self, is_free: bool) -> Turn {
        if self.owed && is_free {
            self.owed = false;
            return Turn { is_run: true, missed: 0 };
        }
        loop {
            if let Some(due) = self.due {
                sleep_until(due).await;
                self.due = None;
                return self.judge(is_free, 0);
            }
            let Some(wait) = self.clock.wait() else { return std::future::pending().await };
            if !wait.is_zero() {
                sleep(wait.min(LOOK)).await;
                continue;
            }
            let late = self.clock.pass();
            if late.missed > 0 || late.by > LATE {
                let missed = late.missed + u64::from(late.by > LATE);
                if late.by > LATE {
                    self.owed = self.missed == Missed::Once;
                    return Turn { is_run: false, missed };
                }
                return self.judge(is_free, missed);
            }
            match self.jitter.is_zero() {
                true => return self.judge(is_free, 0),
                false => self.due = Some(Instant::now() + self.dice.within(self.jitter)),
            }
        }
    }

    fn judge(&mut self, is_free: bool, missed: u64) -> Turn {
        if is_free {
            return Turn { is_run: true, missed };
        }
        self.owed = self.missed == Missed::Once;
        Turn { is_run: false, missed: missed + 1 }
    }
}

/// How late the time was that has passed.
struct Late {
    by: Duration,
    /// How many more times passed before it was looked at.
    missed: u64,
}

impl Clock {
    /// How long until the next time; zero when it has come, nothing when there is none.
    fn wait(&self) -> Option<Duration> {
        match self {
            Self::Every { next, .. } => Some(next.saturating_duration_since(Instant::now())),
            #[cfg(feature = "cron")]
            Self::Cron(times) => times.wait(),
        }
    }

    /// Goes on to the time after the one that has come.
    fn pass(&mut self) -> Late {
        match self {
            Self::Every { period, next } => {
                let by = next.elapsed();
                let more = by.as_nanos() / period.as_nanos();
                *next += period.saturating_mul(u32::try_from(more + 1).unwrap_or(u32::MAX));
                Late { by, missed: u64::try_from(more).unwrap_or(u64::MAX) }
            }
            #[cfg(feature = "cron")]
            Self::Cron(times) => Late { by: times.pass(), missed: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn comes_every_period_and_never_before_it() {
        let mut turns = Schedule::every(MINUTE).turns().unwrap();
        let began = Instant::now();
        for n in 1..=3 {
            assert_eq!(turns.next(true).await, Turn { is_run: true, missed: 0 });
            let (early, late) = (MINUTE * n, MINUTE * n + Duration::from_millis(10));
            assert!((early..late).contains(&began.elapsed()), "{:?}", began.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_at_which_nothing_can_begin_is_skipped_or_made_up_for_once() {
        for (policy, made_up) in [(Missed::Skip, false), (Missed::Once, true)] {
            let mut turns = Schedule::every(MINUTE).missed(policy).turns().unwrap();
            for _ in 0..3 {
                assert_eq!(turns.next(false).await, Turn { is_run: false, missed: 1 });
            }
            let began = Instant::now();
            assert_eq!(turns.next(true).await, Turn { is_run: true, missed: 0 });
            assert_eq!(began.elapsed() < MINUTE / 2, made_up);
            assert!(turns.next(true).await.is_run);
            assert!(began.elapsed() >= MINUTE - Duration::from_millis(10));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn times_that_pass_while_the_process_stands_still_are_counted() {
        let mut turns = Schedule::every(MINUTE).turns().unwrap();
        tokio::time::advance(MINUTE * 5 + MINUTE / 4).await;
        assert_eq!(turns.next(true).await, Turn { is_run: false, missed: 5 });
        let began = Instant::now();
        assert_eq!(turns.next(true).await, Turn { is_run: true, missed: 0 });
        assert!(began.elapsed() >= MINUTE / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn jitter_delays_a_run_and_never_hurries_it() {
        let mut turns = Schedule::every(MINUTE).jitter(MINUTE / 4).turns().unwrap();
        let began = Instant::now();
        assert!(turns.next(true).await.is_run);
        assert!((MINUTE..=MINUTE * 5 / 4 + Duration::from_millis(5)).contains(&began.elapsed()));
    }

    #[test]
    fn a_period_of_zero_is_refused() {
        assert!(Schedule::every(Duration::ZERO).turns().is_err());
    }
}
