//! The etcd registry of Meshwork: instances as records under leases, found by a list and a watch.
//!
//! [`Etcd`] is what `App::with_registry` takes; [`EtcdConfig`] is its table in a configuration file. One
//! value holds one connection, one watch stream and one keep-alive stream, however many services it
//! finds and announces. Retry, sharing and staleness are the drivers' of `meshwork-registry`.
//!
//! # Security
//! `https` endpoints are spoken to with TLS by rustls and ring; the files of [`TlsConfig`] are read again for
//! every new connection, and a connection that works is left alone. A user logs in once; a token that etcd does
//! not take any more is renewed on that very refusal, once for all that met it. A wrong password is tried once in
//! [`denied_retry`](EtcdConfig::denied_retry), and again as soon as its file has another. To change a password
//! without a gap write the file first, then tell etcd. What a role must permit is at [`Etcd`].
//!
//! While etcd denies us, views keep their last set and say so. Before 3.6 etcd renews leases for everybody, so
//! what is announced stays; since then a lease runs out when its owner may not write its keys any more.
//!
//! # What it costs
//! A watched service is one watch of the shared stream, an announced instance one lease and one watch. etcd judges
//! a new watch by the token its stream was opened with: the first new watch after a token has ended costs one
//! stream, and what was watched on it resumes.
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
mod source;
mod store;
mod taps;
mod tls;
mod watching;

pub use config::EtcdConfig;
pub use endpoints::Endpoints;
pub use etcd::Etcd;
pub use meshwork_registry::Secret;
pub use meshwork_tls::TlsConfig;
