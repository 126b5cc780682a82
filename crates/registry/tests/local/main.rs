//! The embedded registry among real processes: what is killed, frozen, deleted, damaged or planted.

mod bench;
mod harm;
mod life;
mod peer;
