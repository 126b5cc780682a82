//! `methods."package.Service/Method"` of a client: what holds for one method.

use super::{
    balance::{self, Balance},
    limit::LimitConfig,
    review::Review,
};
use crate::{duration, layers::End};
use serde::Deserialize;
use std::time::Duration;

/// `methods."package.Service/Method"` of a client; keys that are absent are the client's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MethodConfig {
    /// Longest time of a call of this method. Default: none, the client's.
    #[serde(with = "duration::option")]
    pub timeout: Option<Duration>,
    /// Longest time of one attempt. Default: none, the client's.
    #[serde(with = "duration::option")]
    pub attempt_timeout: Option<Duration>,
    /// True if the method may run twice, so that it may be tried again. Default: false.
    pub idempotent: bool,
    /// When a failed call of this method is tried again.
    pub retry: MethodRetryConfig,
    /// Whether slow calls of this method get a second attempt. Default: none, as the client's.
    pub hedge: Option<bool>,
    /// How an instance is chosen, over the same connections and figures. Default: none, as the client's.
    pub balance: Option<Balance>,
    /// The header whose value is the key of a call. Default: none, the client's.
    pub hash_header: Option<String>,
    /// How many calls of this method may run at a time and begin per second, besides the client's own limit.
    /// Default: as many as come.
    pub limit: LimitConfig,
}

/// `retry = { .. }` of a method. The budget is the client's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MethodRetryConfig {
    /// Attempts of a call, the first included, 1 to 5; 1 = no retry. Default: none, the client's.
    pub attempts: Option<u8>,
}

impl MethodConfig {
    /// Judges the table of the method called `method`.
    pub(super) fn review(&self, method: &str, review: &mut Review<'_>) {
        let key = format!("methods.\"{method}\"");
        let parts: Vec<_> = method.split('/').collect();
        if parts.len() != 2 || parts.iter().any(|part| part.is_empty()) {
            let message = format!("`{method}` is no method\nwrite \"package.Service/Method\"");
            review.refuse(&key, End::Key, message);
        }
        review.positive(&format!("{key}.timeout"), self.timeout);
        review.positive(&format!("{key}.attempt_timeout"), self.attempt_timeout);
        if let Some(count) = self.retry.attempts {
            attempts(review, &format!("{key}.retry.attempts"), count);
        }
        balance::header(review, &format!("{key}.hash_header"), self.hash_header.as_deref());
    }
}

/// Refuses a number of attempts, the first included, out of range.
pub(super) fn attempts(review: &mut Review<'_>, key: &str, count: u8) {
    review.within(key, count, 1..=5);
}
