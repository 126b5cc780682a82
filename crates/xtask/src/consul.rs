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
    golang::Module,
};

const FILE: &str = "consul";
const PACKAGE: &str = "github.com/hashicorp/consul";
const MODULE: Module = Module {
    folder: "consul",
    go_mod: include_str!("../servers/consul/go.mod"),
    programs: &[(FILE, PACKAGE)],
    takes: "2 to 4 minutes",
};
/// The oldest consul that the tests know how to start.
const OLDEST: (u32, u32) = (1, 14);
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
    let built = Entry::new(FILE, MODULE.version(PACKAGE))?;
    if !built.has(&[FILE]) {
        MODULE.fill(&built).map_err(|reasons| {
            format!(
                "no consul: install Go {} or newer, or consul {}.{} or newer, or set {VARIABLE} to one\n  {}",
                MODULE.go(),
                OLDEST.0,
                OLDEST.1,
                reasons.join("\n  "),
            )
        })?;
    }
    Ok(built.path(FILE))
}

fn release(consul: &Path) -> Option<(u32, u32)> {
    let out = Command::new(consul).arg("version").output().ok()?;
    parse_release(&String::from_utf8_lossy(&out.stdout))
}

fn parse_release(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.lines().find_map(|line| line.strip_prefix("Consul v"))?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
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
        assert_eq!(MODULE.version(PACKAGE), "1.19.2");
    }
}
