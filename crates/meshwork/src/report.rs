//! What a stop left behind.

use std::{fmt, process::ExitCode, time::Duration};

/// How an [`App`](crate::App) stopped.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Why it stopped, for people: a signal, `handle.stop()`, the future of `serve_until`.
    pub cause: Box<str>,
    /// From the wish to stop to the end.
    pub took: Duration,
    /// Requests that were in flight when the drain began and finished.
    pub finished: usize,
    /// What was cut at the deadline, one line each: listener, peer, method, age.
    pub cut: Vec<String>,
    /// Hooks that failed or overran their budget, and a deregistration that was not confirmed.
    pub faults: Vec<String>,
}

impl Report {
    /// Whether everything finished by itself.
    pub fn is_clean(&self) -> bool {
        self.cut.is_empty() && self.faults.is_empty()
    }

    /// 0 when nothing was cut, else 6.
    pub fn code(&self) -> u8 {
        if self.cut.is_empty() { 0 } else { 6 }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cause, took, finished, cut, faults } = self;
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
