//! The Meshwork channel: one way to call a service over HTTP/1.1, HTTP/2 and gRPC.
//!
//! A [`Channel`] follows a [`Watch`](meshwork_core::Watch) of instances, keeps a confirmed connection to each,
//! chooses the better of two for each call, re-routes what was surely not delivered and retries what may run
//! twice. It is a tower `Service`, so that a tonic-generated client works over it unchanged, and has verbs of
//! its own for plain HTTP. It never registers anything and knows no registry.
#![deny(missing_docs)]

mod aperture;
mod body;
mod channel;
mod choose;
mod clock;
mod cluster;
mod config;
mod confirm;
mod connect;
mod deadline;
mod dial;
mod error;
mod expiry;
mod failure;
mod flight;
mod funnel;
mod held;
mod http1;
mod http2;
mod io;
mod limit;
mod lines;
mod link;
mod method;
mod names;
mod offer;
mod options;
mod owner;
#[cfg(test)]
mod properties;
mod pulse;
mod rules;
mod shared;
mod spares;
mod stack;
mod standing;
mod table;
mod target;
#[cfg(feature = "tls")]
mod tls;
mod upload;
mod verbs;
mod verdict;

pub use body::Body;
pub use channel::{CallFuture, Channel};
pub use config::{ClientConfig, Local, RetryConfig, ZoneConfig};
pub use connect::{Connect, Connected, Protocol, TcpConnect, TlsUse};
pub use error::{Attempt, AttemptPhase, CallError, CallErrorKind};
pub use funnel::{Funnel, Missing};
pub use io::Io;
pub use limit::{LimitConfig, LimitView};
pub use link::ConnectionState;
/// How an instance is chosen: the policies, and what a policy of one's own is made of.
pub use meshwork_balance as balance;
pub use meshwork_resilience::{deadline::Limit, hedge::HedgeStats};
pub use method::MethodConfig;
pub use options::{CallOptions, OptionsExt};
pub use table::{ClusterView, NodeView, SubsetView};
#[cfg(feature = "tls")]
pub use tls::{TlsConfig, TlsConnect};
pub use verbs::{HeaderFault, RequestBuilder, Response};
