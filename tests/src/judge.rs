//! Judges the figures of a scenario, and prints them in one line.

use std::{fmt::Display, process::ExitCode, time::Duration};

/// How long a scenario runs, and how strictly its times are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// Seconds; times are judged with a slack of 4, since other work runs beside it.
    Short,
    /// As a developer runs it: strict.
    Ordinary,
    /// The full length: strict.
    Long,
}

/// Collects figures and misses.
#[derive(Debug)]
pub struct Judge {
    scenario: u32,
    length: Length,
    figures: Vec<String>,
    notes: Vec<String>,
    misses: Vec<String>,
    part: Option<Part>,
    parts: Parts,
}

/// The part that is being judged, and how much there was before it.
#[derive(Debug)]
struct Part {
    name: String,
    figures: usize,
    misses: usize,
    skipped: bool,
}

#[derive(Debug, Default)]
struct Parts {
    passed: usize,
    missed: usize,
    skipped: usize,
}

// === impl Length ===

impl Length {
    /// One of three values.
    pub fn pick<T>(self, short: T, ordinary: T, long: T) -> T {
        match self {
            Self::Short => short,
            Self::Ordinary => ordinary,
            Self::Long => long,
        }
    }

    /// The time that is allowed where the figure says `strict`.
    pub fn allows(self, strict: Duration) -> Duration {
        if self == Self::Short { strict * 4 } else { strict }
    }
}

// === impl Judge ===

impl Judge {
    /// Nothing measured yet.
    pub fn new(scenario: u32, length: Length) -> Self {
        Self {
            scenario,
            length,
            figures: Vec::new(),
            notes: Vec::new(),
            misses: Vec::new(),
            part: None,
            parts: Parts::default(),
        }
    }

    /// Begins a part of the scenario, which has a line of its own; the part before it ends.
    pub fn begin(&mut self, part: impl Into<String>) {
        self.end();
        let (figures, misses) = (self.figures.len(), self.misses.len());
        self.part = Some(Part { name: part.into(), figures, misses, skipped: false });
    }

    /// Ends the part that was begun, if one was, and prints its line at once.
    pub fn end(&mut self) {
        let Some(Part { name, figures, misses, skipped }) = self.part.take() else { return };
        let (count, verdict) = match (self.misses.len() > misses, skipped) {
            (true, _) => (&mut self.parts.missed, "FAILED"),
            (false, true) => (&mut self.parts.skipped, "skipped"),
            (false, false) => (&mut self.parts.passed, "passed"),
        };
        *count += 1;
        self.misses.iter_mut().skip(misses).for_each(|miss| miss.insert_str(0, &format!("{name}: ")));
        let told = self.figures.split_off(figures).join("  ");
        println!("part `{name}` {verdict}: {told}");
    }

    /// A figure that is only told.
    pub fn told(&mut self, what: &str, value: impl Display) {
        self.figures.push(format!("{what} {value}"));
    }

    /// A count, which no machine excuses.
    pub fn count(&mut self, what: &str, value: usize, most: usize) {
        self.told(what, value);
        if value > most {
            self.misses.push(format!("{what}: {value}, allowed are {most}"));
        }
    }

    /// A time, told in milliseconds.
    pub fn time(&mut self, what: &str, value: Duration, most: Duration) {
        self.told(what, format_args!("{} ms", value.as_millis()));
        let most = self.length.allows(most);
        if value > most {
            self.misses.push(format!("{what}: {value:.1?}, allowed are {most:.1?}"));
        }
    }

    /// Something that must hold, told only when it does not.
    pub fn holds(&mut self, what: &str, holds: bool) {
        if !holds {
            self.misses.push(what.to_owned());
        }
    }

    /// The same for a step that says itself what went wrong.
    pub fn succeeds<E: Display>(&mut self, what: &str, outcome: Result<(), E>) {
        if let Err(error) = outcome {
            self.misses.push(format!("{what}: {error}"));
        }
    }

    /// A part that this machine cannot do. It is told, and never counts as passed.
    pub fn skipped(&mut self, what: &str, why: &str) {
        self.part.iter_mut().for_each(|part| part.skipped = true);
        self.figures.push(format!("{what} skipped ({why})"));
    }

    /// Something for who looks for the cause of a miss; printed before the line.
    pub fn note(&mut self, note: &str) {
        self.notes.push(note.to_owned());
    }

    /// Prints the notes and misses, then the line; fails when there is one.
    pub fn finish(mut self) -> ExitCode {
        self.end();
        if let Parts { passed, missed, skipped } = self.parts
            && passed + missed + skipped > 0
        {
            self.figures.insert(0, format!("parts passed {passed}  missed {missed}  skipped {skipped}"));
        }
        for note in &self.notes {
            println!("note: {note}");
        }
        for miss in &self.misses {
            println!("missed: {miss}");
        }
        let verdict = if self.misses.is_empty() { "passed" } else { "FAILED" };
        println!("scenario {} {verdict}: {}", self.scenario, self.figures.join("  "));
        if self.misses.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}
