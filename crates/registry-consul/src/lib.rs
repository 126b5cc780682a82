//! The Consul registry of Meshwork: services at the local agent, found by blocking queries.
//!
//! [`Consul`] is what `App::with_registry` takes; [`ConsulConfig`] is its table in a configuration file. Retry,
//! sharing and staleness are the drivers' of `meshwork-registry`. What Consul cannot do is documented where it
//! shows: one connection per watched service without TLS ([`ConsulConfig::max_queries`]), names that its DNS
//! cannot carry ([`Names`]).
//!
//! # What it costs
//! A watched service is one blocking query that stays open: one connection each over HTTP/1, of which Consul
//! allows 200 per client; with TLS it is HTTP/2, and 200 queries share one. Beyond
//! [`max_queries`](ConsulConfig::max_queries) services take turns: each is asked again within about 5 s. Under a
//! storm of changes a service is asked less than twice a second. An announced instance costs one heartbeat each
//! third of its TTL and one open query at its agent.
//!
//! Measured by `cargo xtask scenario 18` (debug build, 2 busy cores, an agent on the same machine) for one process
//! that watches 1 000 idle services:
//!
//! | | memory | CPU | sockets |
//! |---|---|---|---|
//! | TLS (HTTP/2) | 27 MiB | 0.2–1.0 % of a core | 9 |
//! | plain HTTP, 150 queries at once | 23 MiB | 5.5–6.4 % of a core | 169 |
//!
//! A registration of another process at another agent was seen after 9 ms (median) and 17 ms (p99 of 100) in an
//! idle cluster; a watched service that changed 1 115 times a second was asked for 1.75 times a second. Where the
//! agent has permissions, up to four small questions each 3 s make sure that what is watched may still be read.
//!
//! # Foreign services
//! Services that were registered by others (`curl`, `consul services register`, another framework) are found and
//! usable: see [`Consul`] for `protocol`, the module sources for ids, weights and addresses. Connections to them
//! are not confirmed, and their removals are believed more easily.
#![deny(missing_docs)]

mod address;
mod agent;
mod announcer;
mod asked;
mod catalog;
mod checks;
mod claim;
mod config;
mod consul;
mod cursor;
mod durations;
mod entry;
mod errors;
mod hub;
mod jitter;
mod lane;
mod look;
mod meta;
mod names;
mod own;
mod pace;
mod places;
mod reader;
mod roll;
mod rows;
mod source;
mod texts;
mod tokens;
mod transport;
mod unix;

pub use checks::{Check, Kind};
pub use config::{ConsulConfig, Reads};
pub use consul::Consul;
pub use meshwork_registry::Secret;
pub use meshwork_tls::TlsConfig;
pub use names::Names;
