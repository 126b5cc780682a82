//! The drivers every Meshwork registry shares, and the backends that need no server.
//!
//! A backend author writes a [`Source`](meshwork_core::Source) and an
//! [`Announcer`](meshwork_core::Announcer); [`Driven`] adds everything else: sharing, retry, staleness,
//! coalescing, claims that heal. Nothing here knows any particular registry.
#![deny(missing_docs)]

mod driven;
mod options;

pub use driven::Driven;
pub use options::{DriverOptions, Healing};
