//! `[server.shed]`: how many requests a server lets in, found by their latency, and who comes first.

use super::review::Review;
use crate::duration;
use serde::Deserialize;
use std::time::Duration;

/// `[server.shed]`. The limit of requests inside follows their latency; what is above it is refused by priority.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table with `enabled = true`")]
#[non_exhaustive]
pub struct ShedConfig {
    /// Whether requests are refused at all. Default: false.
    pub enabled: bool,
    /// The limit in the beginning, and the one it returns to while nothing is refused, `least` to `most`. Default: 20.
    pub initial: u32,
    /// The lowest limit, 1 or more: so many requests are let in however slow they are. Default: 2.
    pub least: u32,
    /// The highest limit, `least` to 1 000 000. Default: 4096.
    pub most: u32,
    /// How long latencies are gathered before the limit moves, 10ms to 10s. Default: 50ms.
    #[serde(with = "duration")]
    pub window: Duration,
    /// Under lasting overload, how often half the limit is let in for a moment to see the latency without a queue,
    /// 1s or more. Default: 5s.
    #[serde(with = "duration")]
    pub look: Duration,
    /// The share of the limit that `critical` requests have besides, 0.0 to 1.0. Default: 0.25.
    pub critical_share: f64,
    /// The requests that `critical` ones have besides at least, 0 to 1000. Default: 8.
    pub critical_least: u32,
    /// The share of the limit that is kept from `sheddable` requests, 0.0 to 0.9. Default: 0.2.
    pub reserved_share: f64,
}

impl Default for ShedConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            initial: 20,
            least: 2,
            most: 4096,
            window: Duration::from_millis(50),
            look: Duration::from_secs(5),
            critical_share: 0.25,
            critical_least: 8,
            reserved_share: 0.2,
        }
    }
}

impl ShedConfig {
    /// Adds what is wrong with the values, as keys of `[server]`.
    pub(super) fn review(&self, review: &mut Review<'_>) {
        review.within("shed.least", self.least, 1..=1_000_000);
        review.within("shed.most", self.most, self.least.max(1)..=1_000_000);
        if self.least <= self.most {
            review.within("shed.initial", self.initial, self.least..=self.most);
        }
        review.within("shed.window", self.window, Duration::from_millis(10)..=Duration::from_secs(10));
        review
            .require(self.look >= Duration::from_secs(1), "shed.look", || "must be 1s or longer".to_owned());
        review.within("shed.critical_share", self.critical_share, 0.0..=1.0);
        review.within("shed.critical_least", self.critical_least, 0..=1000);
        review.within("shed.reserved_share", self.reserved_share, 0.0..=0.9);
    }
}
