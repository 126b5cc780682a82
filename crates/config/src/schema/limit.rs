//! `limit = { .. }` of a client or a method: how many calls may run at a time and begin per second.

use crate::duration;
use serde::Deserialize;
use std::{num::NonZeroU32, time::Duration};

/// `limit = { .. }` of a client or a method. A call one too many waits for its turn, or is refused.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitConfig {
    /// Calls that run at a time. Default: none, as many as come.
    pub concurrency: Option<NonZeroU32>,
    /// Calls that begin per second. Default: none, as many as come.
    pub rate: Option<NonZeroU32>,
    /// Calls that may begin at once after a pause, where `rate` is set. Default: none, as many as `rate`.
    pub burst: Option<NonZeroU32>,
    /// Calls that may wait for others to end, where `concurrency` is set. Default: 1024.
    pub queue: u32,
    /// Longest wait for a turn; 0s = none waits. Default: 1s.
    #[serde(with = "duration")]
    pub longest_wait: Duration,
}

impl Default for LimitConfig {
    fn default() -> Self {
        Self { concurrency: None, rate: None, burst: None, queue: 1024, longest_wait: Duration::from_secs(1) }
    }
}
