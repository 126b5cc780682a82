//! Trying again: free re-routes of what was surely not delivered, budgeted retries of what may run twice.
//!
//! [`Recovery`] decides without I/O, [`Said`] reads what an answer says of another attempt, [`RetryLayer`] does
//! it around any tower service, [`ChainLayer`] tells the callers of a service that its retries are spent.

mod attempts;
mod chain;
mod judge;
mod layer;
mod said;
mod step;

pub use attempts::{Attempt, Tried};
pub use chain::{Chain, ChainFuture, ChainLayer, ChainService, Chained};
pub use judge::{Answers, Judge, Verdicts};
pub use layer::{RetryFuture, RetryLayer, RetryPolicy, RetryService};
pub use said::Said;
pub use step::{ATTEMPTS, Allowed, Next, REROUTES, Recovery, Reroute, Stop, Trouble};
