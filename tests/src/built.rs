//! Executables of other packages: taken from where cargo has put ours, built when they are not there.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use crate::Result;

/// One build at a time; cargo would wait for itself anyway.
static BUILDING: Mutex<()> = Mutex::new(());

/// The executable `name` of `package`, with whatever features the build beside us had; built when absent.
///
/// # Errors
/// When cargo fails; the error has what it said.
pub fn executable(ours: &Path, package: &str, name: &str) -> Result<PathBuf> {
    let there = profile(ours)?.join(name);
    if there.is_file() { Ok(there) } else { executable_without_features(ours, package, name) }
}

/// The executable `name` of `package`, built now without features, as a plain `cargo run -p` would.
///
/// # Errors
/// When cargo fails; the error has what it said.
pub fn executable_without_features(ours: &Path, package: &str, name: &str) -> Result<PathBuf> {
    build(ours, name, &["--package", package])
}

/// The executable `name`, built now with all features of the workspace, as `cargo xtask test` has built all of it.
///
/// # Errors
/// When cargo fails; the error has what it said.
pub fn executable_with_all_features(ours: &Path, name: &str) -> Result<PathBuf> {
    build(ours, name, &["--workspace", "--all-features"])
}

fn build(ours: &Path, name: &str, selection: &[&str]) -> Result<PathBuf> {
    let profile = profile(ours)?;
    let target = profile.parent().ok_or("profile lies in no target directory")?;
    let _alone = BUILDING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["build", "--quiet", "--bin", name])
        .args(selection)
        .arg("--manifest-path")
        .arg(&manifest)
        .arg("--target-dir")
        .arg(target);
    if profile.ends_with("release") {
        cargo.arg("--release");
    }
    let output = cargo.output()?;
    if !output.status.success() {
        return Err(format!("building `{name}`:\n{}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(profile.join(name))
}

/// The directory into which cargo puts executables; tests lie one below it.
fn profile(ours: &Path) -> Result<&Path> {
    let dir = ours.parent().ok_or("own executable lies in no directory")?;
    let above = dir.parent().filter(|_| dir.ends_with("deps"));
    Ok(above.unwrap_or(dir))
}
