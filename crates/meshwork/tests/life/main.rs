//! The life of an app: how it starts, serves, runs jobs and stops, inside one process.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod jobs;
mod listening;
mod rig;
mod serving;
mod starting;
mod stopping;
mod tasks;
