//! The contracts of Meshwork.
//!
//! What an instance is and how it is written down, what a view of a set of instances promises, what a
//! registry backend must do, and what travels with a call. This crate opens no socket and spawns no task;
//! every other crate of the workspace stands on it.
#![deny(missing_docs)]

mod address;
mod backend;
mod build;
mod context;
mod delivered;
mod dialect;
mod discovery;
mod endpoint;
mod error;
pub mod headers;
mod instance;
mod labels;
mod name;
mod phase;
mod query;
mod refusal;
mod registration;
mod task;
pub mod timeout;
mod timestamp;
mod view;
mod watch;
mod wire;
mod within;

pub use address::AddressRules;
pub use backend::{Announcer, Backend, BoxFuture, Change, Changes, Drive, Parts, Source};
pub use build::Build;
pub use context::{Context, Priority, Scope};
pub use delivered::{Delivered, Verdict};
pub use dialect::{Decoded, Dialect, Native, Record};
pub use discovery::{Catalog, Discovery};
pub use endpoint::{Endpoint, Host, Scheme};
pub use error::{BoxError, Error, ErrorChain, ErrorKind};
pub use instance::{Instance, Origin, Status};
pub use labels::Labels;
pub use name::{InstanceId, NameError, ServiceName};
pub use phase::Phase;
pub use query::Query;
pub use refusal::{Refusal, RefusalKind};
pub use registration::{Departure, Registration, RegistrationState, Registry, Wish};
pub use task::Task;
pub use timestamp::Timestamp;
pub use view::{Instances, Snapshot, Staleness, View};
pub use watch::{Evidence, Publisher, Seen, Watch};
pub use wire::{Decoder, MAX_ENDPOINTS, MAX_LABELS, MAX_RECORD_BYTES, decode, encode};
pub use within::within;
