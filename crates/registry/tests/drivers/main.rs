//! The drivers over backends that do what a test orders: how often they are asked, what is cut, what is
//! logged, and what is left when nobody watches any more.

mod announcing;
mod driving;
mod finding;
mod logging;
mod scripted;
