//! `bench PN`: one performance experiment, always as a ratio against a peer in the same run.
//!
//! Prints one line with its figures last, and exits non-zero when a goal is missed; 77 when the machine was
//! too restless for the comparison to mean anything.

mod cpu;
mod fleet;
mod p1;
mod p5;
mod p7;
mod rounds;
mod verdict;

use std::process::ExitCode;

use crate::verdict::Verdict;

const USAGE: &str = "usage: bench P1 | P5 | P7
  P1  pick + record against tower's p2c with peak-EWMA
  P5  one change in, picker stored, against copying a Vec<Arc>
  P7  memory per endpoint";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let verdict = match args.next().as_deref().map(str::to_uppercase).as_deref() {
        Some("P1") => p1::run(),
        Some("P5") => p5::run(),
        Some("P7") => p7::run(),
        _ => Verdict::unusable(USAGE),
    };
    verdict.tell()
}
