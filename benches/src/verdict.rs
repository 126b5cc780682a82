//! How an experiment ends: its line, and the exit status that says whether its goals were met.

use std::{fmt, process::ExitCode};

use crate::rounds::Spread;

/// The exit status for 'this machine cannot tell'.
const VOID: u8 = 77;
/// How far the peer's own quartiles may lie apart, as a part of its median.
const STEADY: f64 = 0.1;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// All of it, judged.
    Full,
    /// As little as shows that it runs, not judged.
    Quick,
}

impl Mode {
    /// So many rounds, or as few as show that it runs.
    pub(crate) fn rounds(self, full: usize) -> usize {
        self.of(full, 2)
    }

    /// The one or the other.
    pub(crate) fn of<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// What an experiment has found so far.
pub(crate) struct Findings {
    mode: Mode,
    texts: Vec<String>,
    /// Where, and which goal.
    misses: Vec<(String, String)>,
    uneven: Vec<String>,
}

impl Findings {
    pub(crate) fn new(mode: Mode) -> Self {
        Self { mode, texts: Vec::new(), misses: Vec::new(), uneven: Vec::new() }
    }

    /// Adds a part of the line.
    pub(crate) fn text(&mut self, text: impl Into<String>) {
        self.texts.push(text.into());
    }

    /// A goal: `figure` is at most `goal`.
    pub(crate) fn at_most(&mut self, figure: f64, goal: f64, place: &impl fmt::Display) {
        self.hold(figure <= goal, &format!("at most {goal}"), place);
    }

    /// A goal: `figure` is at least `goal`.
    pub(crate) fn at_least(&mut self, figure: f64, goal: f64, place: &impl fmt::Display) {
        self.hold(figure >= goal, &format!("at least {goal}"), place);
    }

    /// A goal in words.
    pub(crate) fn hold(&mut self, holds: bool, goal: &str, place: &(impl fmt::Display + ?Sized)) {
        if !holds {
            self.misses.push((place.to_string(), goal.to_owned()));
        }
    }

    /// Whether the machine was steady enough there: nothing can be said where the peer's own quartiles lie more
    /// than a tenth apart.
    pub(crate) fn steady(&mut self, peer: Spread, place: &impl fmt::Display) {
        if peer.swing() > STEADY {
            self.uneven.push(place.to_string());
        }
    }

    /// Judges them. `what` was measured.
    pub(crate) fn verdict(self, what: &str) -> Verdict {
        let line = format!("{what}: {}", self.texts.join("; "));
        if self.mode == Mode::Quick {
            return Verdict { line: format!("{line}; quick, so not judged"), status: 0 };
        }
        let meant = self.misses.iter().filter(|(place, _)| !self.uneven.contains(place));
        let misses: Vec<_> = meant.map(|(place, goal)| format!("{place} not {goal}")).collect();
        let (missed, void) = (misses.join(", "), self.uneven.join(", "));
        let rest = match (missed.is_empty(), void.is_empty()) {
            (true, true) => return Verdict { line: format!("{line}; goals met"), status: 0 },
            (false, true) => format!("MISSED: {missed}"),
            (true, false) => format!("VOID, the peer's own quartiles differ by over 10 %: {void}"),
            (false, false) => format!("MISSED: {missed}; VOID besides: {void}"),
        };
        Verdict { line: format!("{line}; {rest}"), status: if missed.is_empty() { VOID } else { 1 } }
    }
}

/// The outcome of one experiment.
#[must_use]
pub(crate) struct Verdict {
    line: String,
    status: u8,
}

impl Verdict {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn status(mode: Mode, figure: f64, peer: [f64; 3]) -> u8 {
        let mut findings = Findings::new(mode);
        findings.at_most(figure, 1.0, &"here");
        let [lower, median, upper] = peer;
        findings.steady(Spread { lower, median, upper }, &"here");
        findings.verdict("P0").status
    }

    #[test]
    fn a_restless_peer_makes_a_figure_void_and_a_quick_run_judges_nothing() {
        let steady = [0.96, 1.0, 1.04];
        assert_eq!(status(Mode::Full, 0.9, steady), 0);
        assert_eq!(status(Mode::Full, 1.1, steady), 1);
        assert_eq!(status(Mode::Full, 1.1, [0.9, 1.0, 1.1]), VOID);
        assert_eq!(status(Mode::Quick, 1.1, [0.1, 1.0, 9.0]), 0);
    }
}
