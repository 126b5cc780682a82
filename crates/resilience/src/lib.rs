//! What a call does when it is slow, fails, or is one too many.
//!
//! Each room holds a pure step (time, randomness and what happened are arguments; no allocation) and a thin tower
//! layer around it: [`deadline`], [`retry`] with its [`Budget`], [`hedge`], [`limit`]. The client's
//! stack calls the steps, anybody's stack can use the layers. They know verdicts and never instances.
#![deny(missing_docs)]

mod backoff;
mod budget;
mod call;
pub mod chance;
pub mod deadline;
pub mod hedge;
pub mod limit;
mod overload;
mod pushback;
pub mod retry;

pub use backoff::{Backoff, Jitter, Pauses};
pub use budget::Budget;
pub use call::{Call, Ends, Idempotent, MAX_KEPT, Replay, is_safe};
pub use overload::{Full, Overload};
pub use pushback::{PUSHBACK, Pushback};
