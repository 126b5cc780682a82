//! START and IDLE: how long the smallest service takes until it serves, and what it costs while nobody calls.
//!
//! Each is a process of the binary `greeter`, which lies beside this one, with a configuration of its own and a
//! registry that is real.

mod greeter;
mod idle;
mod registry;
mod start;
mod usage;

pub(crate) use self::{idle::run as idle, start::run as start};
