//! `[drain]`: how a process leaves.

use super::review::{Review, Reviewed};
use crate::{duration, layers::End};
use humantime::format_duration;
use serde::Deserialize;
use std::time::Duration;

/// What the deadline must leave for requests in flight after settling.
const LEAST_REST: Duration = Duration::from_secs(1);

/// `[drain]`: the times of a graceful stop.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct DrainConfig {
    /// How long the instance still serves after it has left the registry, so that every caller has heard of it. Default: 3s; in `dev` and `test` 200ms.
    #[serde(with = "duration")]
    pub settle: Duration,
    /// Longest time from the signal to the end, all included; then what is in flight is cut. At least `settle` + 1s. Default: 25s, below the 30 s that Kubernetes grants.
    #[serde(with = "duration")]
    pub deadline: Duration,
    /// What `App::on_flush` hooks have together, after everything else and before the deadline; where the deadline is short, a quarter of what settling leaves of it. Default: 2s.
    #[serde(with = "duration")]
    pub flush: Duration,
}

impl DrainConfig {
    /// `settle` where nobody but the author is calling.
    pub(crate) const SETTLE_IN_DEVELOPMENT: &str = "200ms";
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self {
            settle: Duration::from_secs(3),
            deadline: Duration::from_secs(25),
            flush: Duration::from_secs(2),
        }
    }
}

impl Reviewed for DrainConfig {
    fn review(&self, review: &mut Review<'_>) {
        review.positive("flush", Some(self.flush));
        let least = self.settle.saturating_add(LEAST_REST);
        if self.deadline < least {
            let (settle, deadline) = (format_duration(self.settle), format_duration(self.deadline));
            let message = format!(
                "`drain.deadline` = {deadline} leaves less than 1s after `drain.settle` = {settle}\nmake the deadline {} or more",
                format_duration(least),
            );
            let key = review.first_set(&["deadline", "settle"]);
            review.refuse(key, End::Value, message);
        }
    }
}
