//! Two sides that are stale, wiped, flapping, lagging, shut out from a provider, late with a record of one
//! who left, or know a process by another id, while the policy changes; and the union of them.
//!
//! [`world`] is what happens, [`rules`] is what must hold after each step: the rules of the dual registry
//! once more, from the history of what each side showed, as plainly as can be.

mod rules;
mod world;

pub(crate) use world::schedule;
