//! Keeps the views of a source: one subscription per query, shared by all who watch it.
//!
//! [`Reflector`] decides and is a plain state machine without a runtime; the shell around it does what it
//! says. The client sees only the watch; a backend author sees none of this.

mod records;
mod refusals;
pub(crate) mod shell;
mod step;
pub(crate) mod tombstones;
pub(crate) mod topic;

pub use step::{Action, Event, Publication, Reflector, Told};
