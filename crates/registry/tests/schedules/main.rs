//! Ten thousand random schedules for each of the three state machines: scripted stores answer late, never,
//! or twice, the link comes and goes, records are wiped or overwritten by others, the process stands still.
//!
//! A failure names its seed. `MESHWORK_SCHEDULE_SEED=<seed>` runs that schedule alone, with its story
//! printed; `MESHWORK_SCHEDULES=<n>` runs another number of them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod clock;
mod dual;
mod reflector;
mod registrar;

use std::{
    env,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

/// How many schedules run without a word in the environment.
const SCHEDULES: u64 = 10_000;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Runs one schedule per seed; the second argument of `schedule` asks for its story.
fn run(name: &str, schedule: fn(u64, bool)) {
    if let Some(seed) = number("MESHWORK_SCHEDULE_SEED") {
        return schedule(seed, true);
    }
    for seed in 0..number("MESHWORK_SCHEDULES").unwrap_or(SCHEDULES) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| schedule(seed, false))) {
            eprintln!("{name}: seed {seed} fails; run it alone with MESHWORK_SCHEDULE_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

#[test]
fn the_registrar_keeps_its_promises_in_every_schedule() {
    run("registrar", registrar::schedule);
}

#[test]
fn the_reflector_keeps_its_promises_in_every_schedule() {
    run("reflector", reflector::schedule);
}

#[test]
fn the_union_of_two_sides_keeps_its_promises_in_every_schedule() {
    run("dual", dual::schedule);
}
