//! What a stop left behind.

use std::{fmt, process::ExitCode, time::Duration};

/// The exit code of a stop at which something was cut.
const CUT: u8 = 6;

/// How an [`App`](crate::App) stopped.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Why it stopped, for people: a signal, `handle.stop()`, the future of `serve_until`, or what failed.
    pub cause: Box<str>,
    /// From the wish to stop to the end.
    pub took: Duration,
    /// Requests that were in flight when the drain began and finished.
    pub finished: usize,
    /// What was cut, one line each: requests (listener, peer, method, age), and tasks, components and hooks that overran
    /// their budget.
    pub cut: Vec<String>,
    /// Hooks, tasks and components that failed, and a deregistration that was not confirmed.
    pub faults: Vec<String>,
    /// The exit code of what failed and so made it stop.
    pub(crate) failed: Option<u8>,
    /// Whether something blocks its thread and would hold the end of the process up.
    pub(crate) stuck: bool,
}

impl Report {
    /// Whether everything finished by itself and nothing failed.
    pub fn is_clean(&self) -> bool {
        self.cut.is_empty() && self.faults.is_empty() && self.failed.is_none()
    }

    /// 0 when it was asked to stop and nothing was cut; 6 when something was; 5 or 8 when it stopped because
    /// something failed. [`RunError`](crate::RunError) has the table.
    pub fn code(&self) -> u8 {
        self.failed.unwrap_or(if self.cut.is_empty() { 0 } else { CUT })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cause, took, finished, cut, faults, .. } = self;
        write!(f, "stopped by {cause} in {took:.1?}: {finished} finished, {} cut", cut.len())?;
        for line in cut {
            write!(f, "\n  cut: {line}")?;
        }
        for line in faults {
            write!(f, "\n  fault: {line}")?;
        }
        Ok(())
    }
}

impl From<&Report> for ExitCode {
    fn from(report: &Report) -> Self {
        Self::from(report.code())
    }
}
