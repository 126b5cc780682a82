//! `balance = ".."` of a client or a method: how an instance is chosen.

use super::review::Review;
use serde::Deserialize;

/// A way to choose an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Balance {
    /// The better of two random ones, by latency and calls in flight.
    #[default]
    P2c,
    /// One after the other.
    RoundRobin,
    /// One after the other, as often as their weights say.
    WeightedRoundRobin,
    /// The one of two random ones, or of more (`choices`), with the fewest calls in flight.
    LeastRequest,
    /// By the call's key (`hash_header`), with bounded load (`hash_bound`); calls without a key go by chance.
    RingHash,
    /// The first that is connected: in the order of a `direct:///` target, else by weight, then by id.
    First,
}

/// Refuses what can be no name of a header.
pub(super) fn header(review: &mut Review<'_>, key: &str, name: Option<&str>) {
    let Some(name) = name else { return };
    // A token of RFC 9110, section 5.6.2.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    review.require(!name.is_empty() && name.bytes().all(is_token), key, || {
        format!("`{}` is no name of a header\nwrite one like \"x-user-id\"", name.escape_debug())
    });
}
