//! Keeps the registrations of an announcer: claims, holds, claims again for ever, leaves.
//!
//! [`Registrar`] decides and is a plain state machine without a runtime; the shell around it does what it
//! says, on a task of its own, so that no effect hangs on a caller's future.

pub(crate) mod shell;
mod step;

pub use step::{Action, Event, Registrar, Told, Work};
