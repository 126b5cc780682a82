//! The settings of the embedded registry and where it lives by default.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use meshwork_core::{Error, ServiceName};
use rustix::process::geteuid;
use serde::Deserialize;

use crate::durations;

/// The settings of [`Local`](super::Local). Start from the default and change fields:
///
/// ```
/// use meshwork_registry::{Local, LocalConfig};
/// let mut config = LocalConfig::default();
/// config.dir = Some("/tmp/orders".into());
/// let local = Local::with_config(config);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LocalConfig {
    /// The directory; made with mode 0700 when absent. Default: `$XDG_RUNTIME_DIR/meshwork` when that is a
    /// directory of ours, else `meshwork-<uid>` in the temporary directory. Never on a network file system.
    pub dir: Option<PathBuf>,
    /// The environment of instances and queries that name none. Default `dev`.
    pub env: String,
    /// Whether records and directories of other users are trusted. Default false: they are refused.
    /// Directories are then made with mode 1777 and records with 0644.
    pub shared: bool,
    /// How often an owner touches and verifies its record. Default 1 s, from 50 ms to 60 s.
    #[serde(with = "durations")]
    pub heartbeat: Duration,
    /// How long a heartbeat may stand still before a record whose process is gone, but whose lock somebody
    /// else holds, counts as dead; readers look at every record twice in that time. Default 10 s, at least
    /// three heartbeats.
    #[serde(with = "durations")]
    pub ttl: Duration,
    /// Whether to look once a second instead of asking for events: for file systems that report none,
    /// such as directories shared into a virtual machine. Default false.
    pub poll: bool,
}

impl Default for LocalConfig {
    fn default() -> Self {
        Self {
            dir: None,
            env: "dev".to_owned(),
            shared: false,
            heartbeat: Duration::from_secs(1),
            ttl: Duration::from_secs(10),
            poll: false,
        }
    }
}

impl LocalConfig {
    /// The directory as set, made absolute, or the default one.
    pub(super) fn directory(&self) -> PathBuf {
        let dir = self.dir.clone().unwrap_or_else(default_directory);
        let dir = std::path::absolute(&dir).unwrap_or(dir);
        // A trailing slash would follow a symbolic link.
        dir.components().collect()
    }

    /// # Errors
    /// `Invalid` for a setting outside its range.
    pub(super) fn check(&self) -> Result<(), Error> {
        let (beat, ttl) = (self.heartbeat, self.ttl);
        if !(Duration::from_millis(50)..=Duration::from_secs(60)).contains(&beat) {
            let text =
                format!("`heartbeat` of the local registry is {beat:?}: from 50ms to 60s are possible");
            return Err(Error::invalid(text));
        }
        if ttl < beat * 3 {
            let text = format!(
                "`ttl` of the local registry is {ttl:?}: at least three heartbeats ({:?}) are needed",
                beat * 3
            );
            return Err(Error::invalid(text));
        }
        if self.dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            return Err(Error::invalid("`dir` of the local registry is empty"));
        }
        check_env(&self.env)
    }
}

/// Refuses an environment that could leave its directory.
pub(super) fn check_env(env: &str) -> Result<(), Error> {
    // The rule for names is the same.
    ServiceName::new(env).map(drop).map_err(|_name| {
        let shown = env.escape_debug();
        Error::invalid(format!(
            "environment `{shown}` cannot be a directory of the local registry (allowed: a letter or digit, \
             then letters, digits, `.`, `_`, `-`)"
        ))
    })
}

fn default_directory() -> PathBuf {
    let uid = geteuid().as_raw();
    let is_ours =
        |dir: &Path| dir.is_absolute() && fs::metadata(dir).is_ok_and(|m| m.is_dir() && m.uid() == uid);
    match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        Some(dir) if is_ours(&dir) => dir.join("meshwork"),
        _ => env::temp_dir().join(format!("meshwork-{uid}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<LocalConfig, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn every_key_has_a_default_and_unknown_ones_are_refused() {
        assert_eq!(read("{}").unwrap(), LocalConfig::default());
        assert!(LocalConfig::default().check().is_ok());
        let set =
            read(r#"{"dir":"/x","env":"test","shared":true,"heartbeat":"200ms","ttl":"2s","poll":true}"#);
        assert_eq!(set.unwrap().heartbeat, Duration::from_millis(200));
        assert!(read(r#"{"dri":"/x"}"#).unwrap_err().contains("dri"));
        assert!(read(r#"{"ttl":"3"}"#).unwrap_err().contains("unit"));
    }

    #[test]
    fn settings_outside_their_range_are_named() {
        let refused = |change: fn(&mut LocalConfig)| {
            let mut config = LocalConfig::default();
            change(&mut config);
            config.check().unwrap_err().to_string()
        };
        assert!(refused(|c| c.heartbeat = Duration::ZERO).contains("`heartbeat`"));
        assert!(refused(|c| c.ttl = Duration::from_secs(2)).contains("`ttl`"));
        assert!(refused(|c| c.env = "../x".into()).contains("`../x`"));
        assert!(refused(|c| c.dir = Some("".into())).contains("`dir`"));
    }

    #[test]
    fn a_trailing_slash_does_not_follow_a_link() {
        let config = LocalConfig { dir: Some("/tmp/x//".into()), ..LocalConfig::default() };
        assert_eq!(config.directory().as_os_str(), "/tmp/x");
    }
}
