//! What an `actor` process says on its standard output, one JSON object in each line.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::behave::Served;

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// It serves; announced if its registry took it.
    Ready(Ready),
    /// A hook has run.
    Hook {
        /// Which one.
        name: String,
    },
    /// A handler that never answers was entered.
    Hanging,
    /// It stopped as asked.
    Stopped(Stopped),
    /// It could not start.
    Failed {
        /// The exit code that follows.
        code: u8,
        /// The whole chain.
        error: String,
    },
}

/// Where a process serves, and as whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Its listeners, HTTP first.
    pub addrs: Vec<SocketAddr>,
    /// Its id in the registry; empty when nothing is announced.
    pub id: String,
    /// Its process id.
    pub pid: u32,
}

/// How a process stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// The exit code that follows.
    pub code: u8,
    /// What made it stop.
    pub cause: String,
    /// From the wish to stop to the end, in milliseconds.
    pub took_ms: u64,
    /// Requests that finished during the drain.
    pub finished: usize,
    /// What was cut, a line each.
    pub cut: Vec<String>,
    /// What else went wrong, a line each.
    pub faults: Vec<String>,
    /// How often its handlers were called.
    pub served: Served,
}

impl Event {
    /// Reads a line; `None` for one that is no event.
    pub fn read(line: &str) -> Option<Self> {
        serde_json::from_str(line).ok()
    }

    /// Writes it as one line of standard output.
    pub fn say(&self) {
        let line = serde_json::to_string(self).expect("invariant: an event has only JSON types");
        println!("{line}");
    }
}
