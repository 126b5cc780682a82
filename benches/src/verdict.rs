//! How an experiment ends: its line, and the exit status that says whether its goals were met.

use std::{fmt, process::ExitCode};

/// The exit status for 'this machine cannot tell'.
const VOID: u8 = 77;

/// The outcome of one experiment.
#[must_use]
pub(crate) struct Verdict {
    line: String,
    status: u8,
}

impl Verdict {
    /// Measured; `misses` names the goals that were not met.
    pub(crate) fn measured(line: &str, misses: &[String]) -> Self {
        if misses.is_empty() {
            Self { line: format!("{line}; goals met"), status: 0 }
        } else {
            Self { line: format!("{line}; MISSED: {}", misses.join(", ")), status: 1 }
        }
    }

    /// Measured, unless the peer's own quartiles lay too far apart: then nothing can be said. `uneven` names
    /// where.
    pub(crate) fn judged(line: &str, misses: &[String], uneven: &[impl fmt::Display]) -> Self {
        if uneven.is_empty() {
            return Self::measured(line, misses);
        }
        let places: Vec<String> = uneven.iter().map(ToString::to_string).collect();
        let places = places.join(", ");
        Self {
            line: format!("{line}; VOID: the peer's own quartiles differ by over 10 % at {places}"),
            status: VOID,
        }
    }

    /// It could not be run.
    pub(crate) fn unusable(why: impl Into<String>) -> Self {
        Self { line: why.into(), status: 2 }
    }

    /// Prints the line and gives the status.
    pub(crate) fn tell(self) -> ExitCode {
        println!("{}", self.line);
        ExitCode::from(self.status)
    }
}
