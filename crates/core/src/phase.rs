//! Where a process stands between its start and its exit.

use std::fmt;

/// The phases of an `App`, in order; none is entered twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Binding, warming up, not announced.
    Starting,
    /// Announced and serving.
    Serving,
    /// Withdrawn from the registry, still serving (settle).
    Leaving,
    /// Listeners closed; calls in flight finish.
    Draining,
    /// Over.
    Stopped,
}

impl Phase {
    /// Lowercase, as in logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::Leaving => "leaving",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
