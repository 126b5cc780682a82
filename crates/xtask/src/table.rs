//! The table at the end: each part with its outcome and seconds, and the closing line that counts them.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::run;

/// The exit status by which a scenario or a bench says that this machine cannot do it.
pub(crate) const SKIPPED_STATUS: i32 = 77;

/// How many tests passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

/// How a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A part that is one check; it counts as one.
    Passed,
    /// A part that this machine cannot do.
    Skipped,
    /// A part made of tests; they count one by one.
    Tests(Count),
}

struct Row {
    part: String,
    outcome: Result<Outcome, String>,
    took: Duration,
}

/// The parts so far.
pub(crate) struct Table {
    begun: Instant,
    rows: Vec<Row>,
}

// === impl Count ===

impl Count {
    /// Adds what one `test result:` line says; any other line adds nothing.
    pub(crate) fn read(&mut self, line: &str) {
        let Some((_, numbers)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in numbers.split("; ") {
            let Some((number, what)) = part.split_once(' ') else { continue };
            let Ok(number) = number.parse::<usize>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.skipped += number,
                _ => {}
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

// === impl Row ===

impl Row {
    fn count(&self) -> Count {
        match &self.outcome {
            Ok(Outcome::Passed) => Count { passed: 1, ..Count::default() },
            Ok(Outcome::Skipped) => Count { skipped: 1, ..Count::default() },
            Ok(Outcome::Tests(count)) => *count,
            Err(_) => Count { failed: 1, ..Count::default() },
        }
    }

    fn said(&self) -> String {
        match &self.outcome {
            Ok(Outcome::Passed) => "ok".to_owned(),
            Ok(Outcome::Skipped) => "skipped".to_owned(),
            Err(_) => "FAILED".to_owned(),
            Ok(Outcome::Tests(count)) => {
                let mut said = format!("{} passed", count.passed);
                if count.failed > 0 {
                    said += &format!(", {} FAILED", count.failed);
                }
                if count.skipped > 0 {
                    said += &format!(", {} skipped", count.skipped);
                }
                said
            }
        }
    }
}

// === impl Table ===

impl Table {
    pub(crate) fn new() -> Self {
        Self { begun: Instant::now(), rows: Vec::new() }
    }

    /// Does one part and notes how it ended; gives what it made, if it did.
    pub(crate) fn part<T>(
        &mut self,
        part: &str,
        work: impl FnOnce() -> Result<(Outcome, T), String>,
    ) -> Option<T> {
        run::say(part);
        let begun = Instant::now();
        let (outcome, made) = match work() {
            Ok((outcome, made)) => (Ok(outcome), Some(made)),
            Err(reason) => {
                run::echo(&format!("{part}: {reason}"));
                (Err(reason), None)
            }
        };
        self.note(part, outcome, begun.elapsed());
        made
    }

    fn note(&mut self, part: &str, outcome: Result<Outcome, String>, took: Duration) {
        self.rows.push(Row { part: part.to_owned(), outcome, took });
    }

    pub(crate) fn print(&self) {
        let said: Vec<String> = self.rows.iter().map(Row::said).collect();
        let parts = self.rows.iter().map(|row| row.part.len()).chain([5]).max().unwrap_or(5);
        let width = said.iter().map(String::len).chain([7]).max().unwrap_or(7);
        println!("\n{:parts$}  {:width$}  seconds", "part", "outcome");
        for (row, said) in self.rows.iter().zip(&said) {
            println!("{:parts$}  {said:width$}  {:7.1}", row.part, row.took.as_secs_f64());
        }
        println!("{:parts$}  {:width$}  {:7.1}", "total", "", self.begun.elapsed().as_secs_f64());
        for row in &self.rows {
            if let Err(reason) = &row.outcome {
                println!("FAILED {}: {reason}", row.part);
            }
        }
        println!("{}", self.closing_line());
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.total().failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn total(&self) -> Count {
        let mut total = Count::default();
        for row in &self.rows {
            total.add(row.count());
        }
        total
    }

    fn closing_line(&self) -> String {
        let Count { passed, failed, skipped } = self.total();
        let skipped = if skipped > 0 { format!(", {skipped} skipped") } else { String::new() };
        format!("{passed} passed, {failed} failed{skipped}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_tests_and_parts_in_the_closing_line() {
        let mut table = Table::new();
        let mut count = Count::default();
        count.read(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s",
        );
        count.read(
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0s",
        );
        count.read("test failed ... ok");
        assert_eq!(count, Count { passed: 5, failed: 1, skipped: 1 });
        for (part, outcome) in [
            ("a", Ok(Outcome::Passed)),
            ("b", Ok(Outcome::Tests(count))),
            ("c", Err("broken".to_owned())),
            ("d", Ok(Outcome::Skipped)),
        ] {
            table.note(part, outcome, Duration::ZERO);
        }
        assert_eq!(table.closing_line(), "6 passed, 2 failed, 2 skipped");
    }

    #[test]
    fn says_nothing_of_skips_where_there_are_none() {
        assert_eq!(Table::new().closing_line(), "0 passed, 0 failed");
    }
}
