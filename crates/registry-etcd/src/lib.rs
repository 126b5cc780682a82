//! The etcd registry of Meshwork: instances as records under leases, found by a list and a watch.
//!
//! [`Etcd`] is what `App::with_registry` takes; [`EtcdConfig`] is its table in a configuration file. One
//! value holds one connection, one watch stream and one keep-alive stream, however many services it
//! finds and announces. Retry, sharing and staleness are the drivers' of `meshwork-registry`.
//!
//! Building it needs `protoc`, as `etcd-client` does: set `PROTOC` or install `protobuf-compiler`.
#![deny(missing_docs)]

mod announcer;
mod catalog;
mod claim;
mod config;
mod endpoints;
mod errors;
mod etcd;
mod feed;
mod hub;
mod keeper;
mod keys;
mod link;
mod listing;
mod login;
mod members;
mod random;
mod record;
mod resume;
mod secret;
mod source;
mod store;
mod taps;
mod tls;
mod watching;

pub use config::{EtcdConfig, TlsConfig};
pub use endpoints::Endpoints;
pub use etcd::Etcd;
pub use secret::Secret;
