//! How many calls run at a time, and how many begin per second.
//!
//! [`Gate`] is a concurrency limit with a bounded queue whose waiters give up at their deadlines, [`LimitLayer`] the
//! layer around it; `RateLayer` (feature `rate`) limits calls per second by governor's GCRA.

mod gate;
mod layer;
#[cfg(feature = "rate")]
mod rate;

pub use gate::{Acquire, Gate, GatePolicy, Order, Permit};
pub use layer::{LimitFuture, LimitLayer, LimitService};
#[cfg(feature = "rate")]
pub use rate::{RateFuture, RateLayer, RateService};
