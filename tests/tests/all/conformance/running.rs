//! The rigs under way, and the table of those that have ended.
#![expect(clippy::unwrap_used, reason = "a rig that cannot be run fails its test")]

use std::{
    collections::HashMap,
    env, fs,
    io::{self, Write},
    panic,
    path::Path,
    sync::{LazyLock, Mutex},
    thread::{self, JoinHandle},
};

use meshwork_testkit::conformance::{Report, markdown};

use super::RIGS;

/// Names the file that the table is written to.
const TABLE: &str = "MESHWORK_CONFORMANCE_TABLE";
/// Options of the test runner that take a value.
const VALUED: [&str; 7] =
    ["--skip", "--test-threads", "--color", "--format", "--logfile", "--shuffle-seed", "-Z"];

static STARTED: LazyLock<Mutex<HashMap<&str, JoinHandle<Report>>>> = LazyLock::new(|| {
    let args: Vec<String> = env::args().skip(1).collect();
    let chosen = RIGS.iter().filter(|(name, _)| is_asked_for(name, &args));
    Mutex::new(chosen.map(|(name, run)| (*name, thread::spawn(run))).collect())
});
static ENDED: Mutex<Vec<Report>> = Mutex::new(Vec::new());

/// Waits for the run of one rig, and asserts.
pub(super) fn ends_well(name: &str) {
    let started = STARTED.lock().unwrap().remove(name);
    let run = RIGS.iter().find(|(other, _)| *other == name).unwrap().1;
    let report = match started.map(JoinHandle::join) {
        None => run(),
        Some(Ok(report)) => report,
        Some(Err(panicked)) => panic::resume_unwind(panicked),
    };
    println!("{report}");
    let mut ended = ENDED.lock().unwrap();
    ended.push(report.clone());
    if STARTED.lock().unwrap().is_empty() {
        tell(&mut ended);
    }
    drop(ended);
    report.assert();
}

/// Whether the runner was asked for this test: a wrong guess costs time, nothing else.
fn is_asked_for(name: &str, args: &[String]) -> bool {
    let path = format!("conformance::{name}");
    let mut wanted = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match arg.as_str() {
            option if VALUED.contains(&option) => drop(rest.next()),
            option if option.starts_with('-') => {}
            text => wanted.push(text),
        }
    }
    wanted.is_empty() || wanted.iter().any(|text| path.contains(text))
}

/// Writes the table past the runner, which shows nothing of tests that pass.
fn tell(ended: &mut [Report]) {
    ended.sort_by_key(|report| RIGS.iter().position(|(name, _)| *name == report.rig.replace(' ', "_")));
    let table = markdown(ended);
    let lines: Vec<String> = ended.iter().map(Report::summary).collect();
    // A closed terminal is no reason to fail.
    let _ = writeln!(io::stderr(), "\n{table}\n{}", lines.join("\n"));
    if let Some(file) = env::var_os(TABLE) {
        let head = "# Conformance\n\nBackend × behaviour, in milliseconds; `–`: the rig cannot show it. Written by the suite, see \
            [writing a backend](writing-a-backend.md).\n\n";
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        fs::write(root.join(file), format!("{head}{table}")).unwrap();
    }
}

#[test]
fn a_rig_is_started_early_only_when_its_test_was_asked_for() {
    let asked = |args: &[&str]| {
        is_asked_for("etcd_of_one", &args.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    assert!(
        asked(&[]) && asked(&["conformance"]) && asked(&["--nocapture", "etcd_of", "--test-threads", "4"])
    );
    assert!(asked(&["--skip", "memory"]));
    assert!(!asked(&["consul::"]) && !asked(&["memory", "--nocapture"]));
}
