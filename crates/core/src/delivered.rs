//! What a failed attempt says about the request: whether a handler may have seen it.

use std::time::Duration;

/// Whether a request may have reached a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delivered {
    /// Surely not: it may go to another node without any budget.
    No,
    /// Perhaps: only a call marked idempotent may be tried again.
    Maybe,
}

/// What retry layers need to know of a failure.
pub trait Verdict {
    /// Whether the request may have reached a handler.
    fn delivered(&self) -> Delivered;

    /// How long the server asked us to wait before another attempt.
    fn pushback(&self) -> Option<Duration>;
}

const _: fn(&dyn Verdict) = |_| {};
