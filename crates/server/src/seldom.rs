//! A log line that many connections would write, written seldom.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// At most one line in this time.
const EVERY: Duration = Duration::from_secs(30);

/// Says when it is time for another line.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether to write now.
    pub(crate) fn is_time(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let due = last.is_none_or(|last| now.saturating_duration_since(last) > EVERY);
        if due {
            *last = Some(now);
        }
        due
    }
}
