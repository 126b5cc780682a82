//! Notices: what a process tells when something that it depends on, or it itself, stops being well, and when all is
//! well again.
//!
//! Whoever sees something says so on the [`Board`](board::Board); what lasts is told: a line of the log, whoever listens
//! to [`Handle::notices`](crate::Handle::notices), and the webhook of `[service.notices]`.

pub(crate) mod board;
mod ledger;
pub(crate) mod live;
pub(crate) mod views;
pub(crate) mod webhook;

use std::{fmt, sync::Arc};

use meshwork_core::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};

/// What a notice is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoticeKind {
    /// Our heartbeat to the registry; the name is the service that is announced.
    Registration,
    /// The registry's heartbeat to us; the name is the service that is looked for.
    Discovery,
    /// The heartbeat of an instance of a service that is called; the name is its id.
    Peer,
    /// A [`Check`](crate::Check) of the author's, by its name.
    Check,
    /// The address that this process is announced under.
    Address,
}

/// How it stands, in Consul's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum NoticeState {
    /// It is well, for the first time or again.
    Passing,
    /// Something is wrong, and calls go on.
    Warning,
    /// It fails.
    Critical,
}

/// One thing that turned. As JSON it has these fields, each state and kind in lower case and `since` in RFC 3339:
///
/// ```json
/// {"service":"orders","instance":"orders-01890a5d-…","env":"prod","kind":"registration","name":"orders",
///  "state":"critical","since":"2026-11-20T10:30:00.000Z","cause":"claiming `orders-…`: connection refused",
///  "text":"registration `orders` is critical: claiming `orders-…`: connection refused","open":1}
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Notice {
    /// The service of this process.
    pub service: Arc<str>,
    /// The id of this process.
    pub instance: Arc<str>,
    /// Its environment.
    pub env: Arc<str>,
    /// What it is about.
    pub kind: NoticeKind,
    /// Which one of that kind.
    pub name: Arc<str>,
    /// How it stands now.
    pub state: NoticeState,
    /// When the trouble began; of what is well again too.
    pub since: Timestamp,
    /// Why, where that is known.
    pub cause: Option<Arc<str>>,
    /// All of it in one line, for people.
    pub text: Arc<str>,
    /// How many things are in trouble now; 0 = all is well.
    pub open: usize,
}

/// Hears every notice from now on; see [`Handle::notices`](crate::Handle::notices).
///
/// At most 16 wait to be read, the oldest go first.
pub struct Notices {
    told: broadcast::Receiver<Notice>,
    missed: u64,
}

impl Notices {
    /// Waits for the next notice; `None` when the app is gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        loop {
            match self.told.recv().await {
                Ok(notice) => return Some(notice),
                Err(RecvError::Lagged(missed)) => self.missed = self.missed.saturating_add(missed),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// How many gave way to newer ones because they were not read in time.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// How many wait to be read.
    pub(crate) fn waiting(&self) -> usize {
        self.told.len()
    }
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").field("missed", &self.missed).finish_non_exhaustive()
    }
}

impl fmt::Display for NoticeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registration => "registration",
            Self::Discovery => "discovery",
            Self::Peer => "peer",
            Self::Check => "check",
            Self::Address => "address",
        })
    }
}

impl fmt::Display for NoticeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
