//! Hedging: a second attempt for a call that takes longer than nearly all others do.
//!
//! "The Tail at Scale" (Dean, Barroso; CACM 2013): after the 95th percentile of the latency a copy goes elsewhere,
//! the first answer wins, the other call is cancelled. [`Hedging`] learns and decides, [`HedgeLayer`] does it.

mod layer;
mod learned;
mod methods;
mod step;

pub use layer::{HedgeFuture, HedgeLayer, HedgeService, Lost};
pub use learned::Learned;
pub use methods::Methods;
pub use step::{HedgePolicy, HedgeStats, Hedging, Suits};
