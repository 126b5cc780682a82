//! What the integration tests and the scenarios share: provider processes, what they say, what the registry
//! holds, and how figures are judged.
//!
//! The processes are the binary `actor` of this package, a service built on the facade as an author would;
//! the scenarios themselves are the callers.
#![deny(missing_docs)]

pub mod behave;
pub mod built;
pub mod event;
pub mod http1;
pub mod judge;
pub mod local_fleet;
pub mod provider;
pub mod records;
pub mod residue;
pub mod users;
mod workers;

/// What a step of a test or a scenario returns.
pub type Result<T, E = meshwork::BoxError> = std::result::Result<T, E>;

/// The service that the providers are instances of.
pub const SERVICE: &str = "users";
/// The environment that all processes of a test say they run in.
pub const ENVIRONMENT: &str = "test";
