//! The Meshwork server: one accept loop for axum and tonic, health and a bounded drain.
//!
//! A [`Server`] serves HTTP/1.1, HTTP/2 and gRPC on one [`Listener`], with or without TLS; it puts a
//! [`Context`](meshwork_core::Context) around every handler, answers who it is, and leaves without losing
//! calls. It never knows a registry: who calls it announces the addresses.
#![deny(missing_docs)]

mod accept;
mod answer;
mod body;
mod config;
mod conn;
mod dispatch;
mod drain;
mod encrypt;
mod given;
mod handling;
mod handover;
mod handshake;
mod health;
mod health_grpc;
mod health_list;
mod identity;
mod in_process;
mod inbound;
mod inherited;
mod io;
mod linger;
mod listener;
mod network;
mod open;
mod owner;
mod panics;
mod patience;
mod patient;
mod places;
mod rest;
mod rights;
mod seldom;
mod server;
mod services;
mod shared;
mod stats;
mod status;
#[cfg(feature = "tls")]
mod tls;
mod tunnel;
mod uplink;
mod web;
mod websocket;
mod wire;
mod work;

pub use config::{ServerConfig, ShedPolicy};
pub use drain::{Cut, CutKind, CutRequest, DrainReport};
pub use encrypt::{Duplex, Encrypt, Encrypted, PeerIdentity, Unencrypted};
pub use handover::{Offer, Predecessor};
pub use health::Health;
pub use identity::Identity;
pub use in_process::InProcess;
pub use inherited::Inherited;
pub use listener::{BindError, Listener};
pub use meshwork_resilience::shed::{AdaptivePolicy, Shares, ShedStats};
pub use network::Network;
pub use owner::Owner;
pub use places::Place;
pub use server::{Listeners, Server, Serving};
pub use services::Services;
pub use stats::Stats;
#[cfg(feature = "tls")]
pub use tls::{ClientAuth, ServerTlsConfig, Tls};
pub use work::{Detached, Draining, detach, draining};
