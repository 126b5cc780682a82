//! Load shedding: what a server refuses when more comes than it can do, judged by its own latency and queue, never
//! by the CPU of the host.
//!
//! [`Adaptive`] finds how many calls may be inside, [`Shares`] says who of them comes first, a [`Shedder`] counts
//! and admits, [`ShedLayer`] does it around a tower service.

mod adaptive;
mod layer;
mod shares;
mod shedder;

pub use adaptive::{Adaptive, AdaptivePolicy, Window};
pub use layer::{ShedFuture, ShedLayer, ShedService};
pub use shares::Shares;
pub use shedder::{Admitted, Ended, ShedStats, Shedder};
