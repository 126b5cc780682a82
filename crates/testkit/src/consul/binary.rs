//! Where consul is.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Error;

/// The oldest release that the tests know how to start.
const OLDEST: Release = (1, 14, 0);

type Release = (u32, u32, u32);

/// Looks at the variable `MESHWORK_CONSUL`, then on PATH for 1.14 or newer, then in the cache
/// `${XDG_CACHE_HOME:-~/.cache}/meshwork/servers/consul-<version>/`, newest first.
///
/// # Errors
/// When there is none; the error says what to do.
pub fn find() -> Result<PathBuf, Error> {
    if let Some(consul) = env::var_os("MESHWORK_CONSUL").map(PathBuf::from) {
        let error = || Error::new(format!("finding consul: MESHWORK_CONSUL={} is no file", consul.display()));
        return if consul.is_file() { Ok(consul) } else { Err(error()) };
    }
    let on_path = env::split_paths(&env::var_os("PATH").unwrap_or_default())
        .map(|dir| dir.join("consul"))
        .find(|path| path.is_file());
    if let Some(consul) = on_path.filter(|consul| release_of(consul).is_some_and(|release| release >= OLDEST))
    {
        return Ok(consul);
    }
    cached().ok_or_else(|| {
        Error::new(
            "finding consul 1.14 or newer: it is not on PATH, not in the cache, and MESHWORK_CONSUL is not set; \
             `cargo xtask servers consul` in the Meshwork repository provides one",
        )
    })
}

fn release_of(consul: &Path) -> Option<Release> {
    let output = Command::new(consul).arg("version").output().ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_release(said.lines().find_map(|line| line.strip_prefix("Consul v"))?)
}

fn cached() -> Option<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(&env::var_os("HOME")?).join(".cache"),
    };
    let mut found: Vec<(Release, PathBuf)> = fs::read_dir(base.join("meshwork/servers"))
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let release = parse_release(name.strip_prefix("consul-")?)?;
            let consul = entry.path().join("consul");
            consul.is_file().then_some((release, consul))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, consul)| consul)
}

fn parse_release(text: &str) -> Option<Release> {
    // `1.19.2+ent` is a 1.19.2.
    let plain = text.trim().split(['+', '-']).next()?;
    let mut numbers = plain.split('.').map(str::parse);
    let release = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    numbers.next().is_none().then_some(release)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_as_numbers() {
        assert!(parse_release("1.19.2") > parse_release("1.9.17"));
        assert_eq!(parse_release("1.19.2+ent"), Some((1, 19, 2)));
        assert_eq!(parse_release("1.19.2.new"), None);
    }
}
