//! The Meshwork test bed: real servers, real processes, real faults, open-loop load.
//!
//! For authors of registry backends and of services as much as for Meshwork itself. Everything that is started here
//! ends with the guard that started it, also when the test panics, and, for processes, when the test is killed.
//! It never depends on the facade, so that it can test each crate below.
//!
//! ```no_run
//! # async fn run() -> Result<(), meshwork_testkit::Error> {
//! use meshwork_testkit::{etcd::Etcd, proxy::{FaultProxy, Toward}};
//!
//! let etcd = Etcd::cluster(3).start().await?;
//! let link = FaultProxy::start(etcd.member(0).addr()).await?;
//! link.black_hole(Toward::Both);
//! etcd.member(etcd.leader().await?).kill9().await?;
//! # Ok(())
//! # }
//! ```
#![deny(missing_docs)]

pub mod certs;
pub mod conformance;
pub mod consul;
mod error;
pub mod etcd;
pub mod load;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod truth;

pub use error::Error;
