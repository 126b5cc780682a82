//! The drivers over backends that do what a test orders: how often they are asked, what is cut, what is
//! logged, and what is left when nobody watches any more.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod announcing;
mod driving;
mod finding;
mod logging;
mod scripted;
