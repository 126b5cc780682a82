//! The life of an app: how it starts, serves, runs jobs and stops, inside one process.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

mod flushing;
mod handing_over;
mod jobs;
mod listening;
mod notices;
mod reflecting;
mod rig;
mod scripts;
mod serving;
mod starting;
mod stopping;
mod tasks;
mod together;
