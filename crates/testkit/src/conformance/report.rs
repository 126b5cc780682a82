//! What came out: one row for each behaviour, as a table for people and for documents.

use std::{fmt, fmt::Write as _, time::Duration};

/// How one behaviour ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it should be.
    Passed,
    /// The rig cannot show it, for this reason.
    Skipped(String),
    /// It is not; this was seen.
    Failed(String),
}

/// One behaviour of one backend.
#[derive(Clone, Debug)]
pub struct Row {
    /// The behaviour, a sentence.
    pub behaviour: &'static str,
    /// The group it belongs to.
    pub group: &'static str,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, waiting for its turn not counted.
    pub took: Duration,
    /// Times it measured, for people.
    pub notes: Vec<String>,
}

/// What came out for one backend. `Display` is a table.
#[derive(Clone, Debug)]
pub struct Report {
    /// The name of the rig.
    pub rig: String,
    /// All behaviours that were run, in the order of the suite.
    pub rows: Vec<Row>,
    /// How long all of it took.
    pub took: Duration,
}

impl Report {
    /// How many passed.
    pub fn passed(&self) -> usize {
        self.rows.iter().filter(|row| row.outcome == Outcome::Passed).count()
    }

    /// Those that did not.
    pub fn failed(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| matches!(row.outcome, Outcome::Failed(_)))
    }

    /// Those that the rig could not show.
    pub fn skipped(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| matches!(row.outcome, Outcome::Skipped(_)))
    }

    /// One line: how many of each, and the time.
    pub fn summary(&self) -> String {
        let (passed, failed, skipped) = (self.passed(), self.failed().count(), self.skipped().count());
        let seconds = self.took.as_secs_f64();
        format!("{}: {passed} passed, {failed} failed, {skipped} skipped in {seconds:.1} s", self.rig)
    }

    /// Asserts that nothing failed and something passed.
    ///
    /// # Panics
    /// With the list of those that failed and what was seen, or when no behaviour was run to its end.
    pub fn assert(&self) {
        let mut text = String::new();
        for row in self.failed() {
            if let Outcome::Failed(seen) = &row.outcome {
                let _ = write!(text, "\n  {} ({}): {seen}", row.behaviour, row.group);
            }
        }
        assert!(text.is_empty(), "{}{text}", self.summary());
        assert!(self.passed() > 0, "{}: nothing was shown", self.summary());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.behaviour.len()).max().unwrap_or(0);
        let mut group = "";
        for row in &self.rows {
            if row.group != group {
                group = row.group;
                writeln!(f, "{group}")?;
            }
            let (mark, why) = match &row.outcome {
                Outcome::Passed => ("ok", ""),
                Outcome::Skipped(why) => ("--", why.as_str()),
                Outcome::Failed(seen) => ("FAILED", seen.as_str()),
            };
            let notes = row.notes.join(", ");
            let gap = if why.is_empty() || notes.is_empty() { "" } else { "; " };
            let line = format!(
                "  {:width$}  {mark:6} {:>6} ms  {why}{gap}{notes}",
                row.behaviour,
                row.took.as_millis()
            );
            writeln!(f, "{}", line.trim_end())?;
        }
        writeln!(f, "{}", self.summary())
    }
}

/// The table backend × behaviour, as Markdown: milliseconds where it passed, `–` where the rig cannot show it.
pub fn markdown(reports: &[Report]) -> String {
    let mut text = String::from("| behaviour |");
    for report in reports {
        let _ = write!(text, " {} |", report.rig);
    }
    text.push_str("\n|---|");
    text.push_str(&"---:|".repeat(reports.len()));
    let mut group = "";
    let mut names: Vec<(&str, &str)> = Vec::new();
    for row in reports.iter().flat_map(|report| &report.rows) {
        if !names.iter().any(|(_, name)| *name == row.behaviour) {
            names.push((row.group, row.behaviour));
        }
    }
    for (of, name) in names {
        if of != group {
            group = of;
            let _ = write!(text, "\n| **{group}** |{}", " |".repeat(reports.len()));
        }
        let _ = write!(text, "\n| {} |", name.replace('_', " "));
        for report in reports {
            let row = report.rows.iter().find(|row| row.behaviour == name);
            let cell = match row.map(|row| (&row.outcome, row.took)) {
                Some((Outcome::Passed, took)) => took.as_millis().to_string(),
                Some((Outcome::Failed(_), _)) => "**failed**".to_owned(),
                Some((Outcome::Skipped(_), _)) | None => "–".to_owned(),
            };
            let _ = write!(text, " {cell} |");
        }
    }
    text.push_str("\n| **passed / skipped, s** |");
    for report in reports {
        let (passed, skipped) = (report.passed(), report.skipped().count());
        let _ = write!(text, " {passed} / {skipped}, {:.0} |", report.took.as_secs_f64());
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcomes: [Outcome; 3]) -> Report {
        let names = ["a_is_so", "b_is_so", "c_is_so"];
        let rows = names.into_iter().zip(outcomes).map(|(behaviour, outcome)| Row {
            behaviour,
            group: "letters",
            outcome,
            took: Duration::from_millis(12),
            notes: Vec::new(),
        });
        Report { rig: "toy".to_owned(), rows: rows.collect(), took: Duration::from_secs(1) }
    }

    fn mixed() -> Report {
        let (skipped, failed) = (Outcome::Skipped("no server".into()), Outcome::Failed("saw d".into()));
        report([Outcome::Passed, skipped, failed])
    }

    #[test]
    fn a_table_tells_each_outcome_with_its_reason() {
        let text = mixed().to_string();
        for part in
            ["a_is_so  ok", "b_is_so  --", "no server", "c_is_so  FAILED", "saw d", "1 passed, 1 failed"]
        {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        let text = markdown(&[mixed(), report([Outcome::Passed, Outcome::Passed, Outcome::Passed])]);
        assert!(
            text.contains("| b is so | – | 12 |") && text.contains("| c is so | **failed** | 12 |"),
            "{text}"
        );
    }

    #[test]
    #[should_panic(expected = "c_is_so (letters): saw d")]
    fn asserting_names_what_failed_and_what_was_seen() {
        mixed().assert();
    }

    #[test]
    #[should_panic(expected = "nothing was shown")]
    fn what_was_only_skipped_is_no_success() {
        let skipped = || Outcome::Skipped("no server".into());
        report([skipped(), skipped(), skipped()]).assert();
    }
}
