//! The times of a cron pattern, by the wall clock of a time zone.

use std::{str::FromStr, time::Duration};

use croner::Cron;
use jiff::{Zoned, tz::TimeZone};

/// A pattern as it was written.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    text: String,
    pub(super) zone: Option<String>,
}

/// Its times, from a moment on.
pub(super) struct Times {
    cron: Cron,
    zone: TimeZone,
    next: Option<Zoned>,
}

impl Pattern {
    pub(super) fn new(text: String) -> Self {
        Self { text, zone: None }
    }

    /// # Errors
    /// What is wrong with the pattern or the zone, for people; a pattern that never comes.
    pub(super) fn times(&self) -> Result<Times, String> {
        let zone = match self.zone.as_deref() {
            None => TimeZone::UTC,
            Some("system") => TimeZone::system(),
            Some(name) => TimeZone::get(name)
                .map_err(|error| format!("time zone `{}`: {error}", name.escape_debug()))?,
        };
        let text = &self.text;
        let wrong = |why: String| format!("cron pattern `{}`: {why}", text.escape_debug());
        let cron = Cron::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let mut times = Times { cron, zone, next: None };
        times.find(&times.now(), true);
        match times.next {
            Some(_) => Ok(times),
            None => Err(wrong("it names no time that will come".to_owned())),
        }
    }
}

impl Times {
    fn now(&self) -> Zoned {
        jiff::Timestamp::now().to_zoned(self.zone.clone())
    }

    fn find(&mut self, after: &Zoned, inclusive: bool) {
        self.next = self.cron.find_next_occurrence(after, inclusive).ok();
    }

    /// How long until the next time; zero when it has come, nothing when there is none.
    pub(super) fn wait(&self) -> Option<Duration> {
        let next = self.next.as_ref()?;
        Some(Duration::try_from(next.timestamp().duration_since(self.now().timestamp())).unwrap_or_default())
    }

    /// Goes on to the first time after now. Says by how much the one before was late.
    pub(super) fn pass(&mut self) -> Duration {
        let now = self.now();
        let late = self.next.take().map(|next| now.timestamp().duration_since(next.timestamp()));
        self.find(&now, false);
        late.and_then(|late| Duration::try_from(late).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pattern: &str, zone: &str, now: &str) -> Vec<String> {
        let mut pattern = Pattern::new(pattern.to_owned());
        pattern.zone = Some(zone.to_owned());
        let mut times = pattern.times().unwrap();
        let mut at: Zoned = now.parse().unwrap();
        let mut found = Vec::new();
        for _ in 0..3 {
            times.find(&at, false);
            at = times.next.clone().unwrap();
            found.push(at.datetime().to_string());
        }
        found
    }

    #[test]
    fn follows_the_wall_clock_of_its_zone() {
        let daily = after("30 2 * * *", "UTC", "2026-11-20T03:00:00+00:00[UTC]");
        assert_eq!(daily, ["2026-11-21T02:30:00", "2026-11-22T02:30:00", "2026-11-23T02:30:00"]);
        let seconds = after("*/20 * * * * *", "UTC", "2026-11-20T03:00:00+00:00[UTC]");
        assert_eq!(seconds, ["2026-11-20T03:00:20", "2026-11-20T03:00:40", "2026-11-20T03:01:00"]);
    }

    #[test]
    fn a_clock_that_is_set_for_summer_and_winter_neither_loses_a_day_nor_runs_twice() {
        if TimeZone::get("Europe/Berlin").is_err() {
            println!("skipped: this machine has no time zones");
            return;
        }
        // 02:30 does not exist on the 29th of March, and comes twice on the 25th of October.
        let spring = after("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+01:00[Europe/Berlin]");
        assert_eq!(spring, ["2026-03-29T03:00:00", "2026-03-30T02:30:00", "2026-03-31T02:30:00"]);
        let autumn = after("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00+02:00[Europe/Berlin]");
        assert_eq!(autumn, ["2026-10-25T02:30:00", "2026-10-26T02:30:00", "2026-10-27T02:30:00"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let refused = |text: &str, zone: Option<&str>| {
            let pattern = Pattern { text: text.to_owned(), zone: zone.map(str::to_owned) };
            pattern.times().err().unwrap()
        };
        assert!(refused("61 * * * *", None).contains("`61 * * * *`"));
        assert!(refused("", None).contains("cron pattern"));
        assert!(refused("0 0 30 2 *", None).contains("no time that will come"));
        assert!(refused("@daily", Some("Mars/Olympus")).contains("`Mars/Olympus`"));
    }
}
