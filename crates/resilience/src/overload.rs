//! Why a call was refused before it began.

use std::{error::Error, fmt, time::Duration};

use meshwork_core::{Delivered, Verdict};

/// A call was refused because there is no room for it. It surely reached no handler; trying it again is a
/// retry all the same, never a free re-route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overload {
    why: Full,
    pause: Duration,
}

/// What was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Full {
    /// As many calls as are allowed run, and as many as are allowed wait.
    Queue,
    /// The call waited for its turn until there was no time left for it.
    Wait,
    /// A newer call took its place in the queue.
    Displaced,
    /// More calls per second than are allowed.
    Rate,
    /// The server sheds calls of this priority.
    Shed,
}

impl Full {
    /// Lowercase, as in error texts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "too many calls wait",
            Self::Wait => "no turn came in time",
            Self::Displaced => "newer calls took its turn",
            Self::Rate => "too many calls a second",
            Self::Shed => "shed under load",
        }
    }
}

impl Overload {
    /// A refusal; trying again before `pause` makes no sense.
    pub const fn new(why: Full, pause: Duration) -> Self {
        Self { why, pause }
    }

    /// What was full.
    pub fn why(&self) -> Full {
        self.why
    }
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused for overload: {}", self.why.as_str())
    }
}

impl Error for Overload {}

impl Verdict for Overload {
    fn delivered(&self) -> Delivered {
        Delivered::No
    }

    /// Always something, so that a retry layer counts another attempt as a retry.
    fn pushback(&self) -> Option<Duration> {
        Some(self.pause)
    }
}
