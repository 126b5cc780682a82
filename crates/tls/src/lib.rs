//! TLS of every part of Meshwork, towards registries, towards instances and at our own listeners: rustls with
//! ring, configured by files.
//!
//! The files are read again when they have changed, for the connections opened from then on. Files that cannot
//! be used, as in the middle of a rotation, change nothing: what was made of the last good ones stays, with one
//! warning. What a handshake met is told in words that say what to do ([`advice`]).
#![deny(missing_docs)]

mod advice;
mod client;
mod config;
mod files;
mod names;
mod pem;
mod rotating;
mod server;

pub use advice::{advice, caller_advice, tls_of};
pub use client::{ClientTls, trusting_nobody};
pub use config::{ClientAuth, ServerTlsConfig, TlsConfig};
pub use names::Names;
pub use server::ServerTls;
