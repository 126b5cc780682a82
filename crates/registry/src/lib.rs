//! The drivers every Meshwork registry shares, and the backends that need no server.
//!
//! A backend author writes a [`Source`](meshwork_core::Source) and an
//! [`Announcer`](meshwork_core::Announcer); [`Driven`] adds everything else: sharing, retry, staleness,
//! coalescing, claims that heal. Nothing here knows any particular registry.
#![deny(missing_docs)]

mod backoff;
pub mod catalog;
mod dice;
mod driven;
pub mod dual;
pub mod durations;
mod engine;
mod fixed;
pub mod guard;
mod local;
mod memory;
mod options;
mod outage;
mod pilot;
pub mod reflector;
pub mod registrar;
mod secret;
mod shield;
pub mod split;
mod stats;
mod target;
mod whereabouts;

pub use dice::Dice;
pub use driven::Driven;
pub use dual::{Dual, DualConfig, DualStats, Steering};
pub use fixed::{Fixed, FixedConfig};
pub use local::{Local, LocalConfig};
pub use memory::{Memory, MemoryConfig, MemoryLease};
pub use options::{DriverOptions, Healing};
pub use outage::Line;
pub use secret::Secret;
pub use split::{Split, SplitConfig};
pub use stats::{Count, RefusedRecord, Stats};
pub use target::{Target, TargetScheme};
