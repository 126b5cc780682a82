//! What is known of the running build.

use crate::Timestamp;

/// Version, commit and time of a build.
///
/// [`build_info!`](crate::build_info) fills it in the author's crate at compile time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Build {
    /// The package's version.
    pub version: &'static str,
    /// The commit it was built from, if the build said so.
    pub commit: Option<&'static str>,
    /// When it was built, in seconds since 1970 as text, if the build said so.
    pub epoch: Option<&'static str>,
}

impl Build {
    /// The version of Meshwork.
    pub const FRAME_VERSION: &'static str = env!("CARGO_PKG_VERSION");

    /// Called by [`build_info!`](crate::build_info).
    pub const fn new(
        version: &'static str,
        commit: Option<&'static str>,
        epoch: Option<&'static str>,
    ) -> Self {
        Self { version, commit, epoch }
    }

    /// The version, with `+` and the first 12 digits of the commit when it is known.
    pub fn full_version(&self) -> String {
        match self.commit.filter(|commit| !commit.is_empty()) {
            Some(commit) => format!("{}+{}", self.version, commit.chars().take(12).collect::<String>()),
            None => self.version.to_owned(),
        }
    }

    /// When it was built: what the build said, else when the running executable was last written.
    pub fn time(&self) -> Option<Timestamp> {
        let said = self.epoch.and_then(|epoch| epoch.parse::<u64>().ok());
        if let Some(seconds) = said {
            return Some(Timestamp::from_millis(seconds.saturating_mul(1000)));
        }
        let written = std::env::current_exe().ok()?.metadata().ok()?.modified().ok()?;
        Some(written.into())
    }
}

/// The [`Build`] of the crate in which it is written.
///
/// The commit is taken from the environment variable `MESHWORK_BUILD_COMMIT` and the time from
/// `SOURCE_DATE_EPOCH` (seconds since 1970, as reproducible builds set it), both read at compile time.
///
/// ```
/// let build = meshwork_core::build_info!();
/// assert_eq!(build.version, env!("CARGO_PKG_VERSION"));
/// ```
#[macro_export]
macro_rules! build_info {
    () => {
        $crate::Build::new(
            env!("CARGO_PKG_VERSION"),
            option_env!("MESHWORK_BUILD_COMMIT"),
            option_env!("SOURCE_DATE_EPOCH"),
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_commit_is_part_of_the_version() {
        let build = Build::new("1.2.3", Some("0123456789abcdef"), Some("1700000000"));
        assert_eq!(build.full_version(), "1.2.3+0123456789ab");
        assert_eq!(build.time(), Some(Timestamp::from_millis(1_700_000_000_000)));
        assert_eq!(Build::new("1.2.3", None, None).full_version(), "1.2.3");
    }

    #[test]
    fn without_a_word_from_the_build_the_executable_tells_its_age() {
        assert!(Build::new("1", None, None).time().is_some());
    }
}
