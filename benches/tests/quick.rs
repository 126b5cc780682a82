//! Each experiment runs to its line. How fast it was is not judged here.

use std::{
    process::{Command, Output},
    time::Duration,
};

/// What `binary` printed last. It must end by itself, and well.
fn last_line(binary: &str, args: &[&str]) -> String {
    let Output { status, stdout, stderr } =
        Command::new(binary).args(args).output().expect("the binary was built with this test");
    let (told, said) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{args:?} ended with {status}: {told}{said}");
    told.lines().last().unwrap_or_default().to_owned()
}

fn quick(name: &str) {
    let line = last_line(env!("CARGO_BIN_EXE_bench"), &[name, "--quick"]);
    println!("{line}");
    assert!(line.starts_with(name) && line.ends_with("quick, so not judged"), "{line}");
}

#[test]
fn every_experiment_without_a_registry_runs_to_its_line() {
    ["P1", "P2", "P4", "P5", "P8", "P9", "P10", "H1"].into_iter().for_each(quick);
}

#[test]
fn every_experiment_on_etcd_runs_to_its_line() {
    ["P6", "P7"].into_iter().for_each(quick);
}

#[test]
fn every_experiment_on_all_registries_runs_to_its_line() {
    ["START", "IDLE"].into_iter().for_each(quick);
}

#[test]
fn allocations_are_counted() {
    let line = last_line(env!("CARGO_BIN_EXE_allocations"), &[]);
    println!("{line}");
    assert!(line.starts_with("A1") && !line.contains(" 0.0 "), "{line}");
}

#[test]
fn an_unknown_experiment_is_refused() {
    let asked = std::time::Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_bench")).arg("P0").output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(asked.elapsed() < Duration::from_secs(60));
}
