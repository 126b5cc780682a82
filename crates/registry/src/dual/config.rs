//! What a dual registry does with its two sides, and the table it is configured by.

use std::{fmt, time::Duration};

use serde::Deserialize;

use crate::durations;

/// One of the two registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// The one whose word counts when both know.
    Primary,
    /// The other one.
    Secondary,
}

/// Where instances are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Write {
    /// On both sides. The default.
    #[default]
    Both,
    /// On the primary side only.
    Primary,
    /// On the secondary side only.
    Secondary,
}

/// Which instances are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Read {
    /// Those of both sides. The default.
    #[default]
    Union,
    /// Those of the primary side; while it cannot be asked, what the secondary knows is added.
    ///
    /// Nothing is swapped: the last good set of the primary stands, and what was added leaves only when
    /// the primary has been asked without trouble for 30 s.
    PrimaryThenSecondary,
    /// Those of the primary side only.
    Primary,
    /// Those of the secondary side only.
    Secondary,
}

/// When a registration counts as announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// When one of the sides that are written has it: one dead registry keeps nobody from starting. The default.
    #[default]
    Any,
    /// When all sides that are written have it.
    All,
}

/// What a dual registry does with its sides. `write` and `read` can be changed while it runs, by
/// [`Steering`](super::Steering).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Policy {
    /// Where instances are announced. Default both.
    pub write: Write,
    /// Which instances are found. Default the union.
    pub read: Read,
    /// When a registration counts as announced. Default any.
    pub start: Start,
    /// How long the sides may disagree on an instance before it is reported. Default 30 s.
    pub disagreement: Duration,
}

/// The settings of [`Dual`](super::Dual) as a table of the configuration:
///
/// ```toml
/// [registry.both]
/// kind = "dual"
/// primary = "etcd"          # names of other tables
/// secondary = "consul"
/// write = "both"            # | "primary" | "secondary"
/// read = "union"            # | "primary-then-secondary" | "primary" | "secondary"
/// start = "any"             # | "all"
/// disagreement = "30s"
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct DualConfig {
    /// The name of the primary registry; logs and errors call it by this.
    pub primary: String,
    /// The name of the secondary registry.
    pub secondary: String,
    /// Where instances are announced. Live: a change in the file holds without a restart. Default `both`.
    #[serde(default)]
    pub write: Write,
    /// Which instances are found. Live, as `write`. Default `union`.
    #[serde(default)]
    pub read: Read,
    /// When a registration counts as announced. Default `any`.
    #[serde(default)]
    pub start: Start,
    /// How long the sides may disagree on an instance before it is reported. Default 30 s.
    #[serde(default = "disagreement", with = "durations")]
    pub disagreement: Duration,
}

fn disagreement() -> Duration {
    Policy::default().disagreement
}

// === impl Side ===

impl Side {
    /// Both, the primary first.
    pub const BOTH: [Self; 2] = [Self::Primary, Self::Secondary];

    /// Lowercase, as in logs and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Primary => Self::Secondary,
            Self::Secondary => Self::Primary,
        }
    }

    pub(crate) fn at(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Write, Read, Policy, DualConfig ===

impl Write {
    /// Whether instances are announced on this side.
    pub fn is_on(self, side: Side) -> bool {
        match self {
            Self::Both => true,
            Self::Primary => side == Side::Primary,
            Self::Secondary => side == Side::Secondary,
        }
    }
}

impl Read {
    /// Whether this side is ever asked.
    pub fn is_of(self, side: Side) -> bool {
        match self {
            Self::Union | Self::PrimaryThenSecondary => true,
            Self::Primary => side == Side::Primary,
            Self::Secondary => side == Side::Secondary,
        }
    }
}

impl Policy {
    /// Whether this side is watched: to read it, or to compare what is written there.
    ///
    /// A side that is neither read nor written is not touched at all, so it may be switched off.
    pub fn watches(&self, side: Side) -> bool {
        self.read.is_of(side) || self.write.is_on(side)
    }
}

impl Default for Policy {
    fn default() -> Self {
        let (write, read, start) = Default::default();
        Self { write, read, start, disagreement: Duration::from_secs(30) }
    }
}

impl DualConfig {
    /// What it says of the sides' use.
    pub fn policy(&self) -> Policy {
        let Self { write, read, start, disagreement, .. } = *self;
        Policy { write, read, start, disagreement }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<DualConfig, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn every_key_but_the_sides_has_a_default_and_unknown_ones_are_refused() {
        let config = read(r#"{"primary":"etcd","secondary":"consul"}"#).unwrap();
        assert_eq!(config.policy(), Policy::default());
        let set = r#"{"primary":"a","secondary":"b","write":"secondary","read":"primary-then-secondary",
            "start":"all","disagreement":"5s"}"#;
        let policy = read(set).unwrap().policy();
        assert_eq!((policy.write, policy.read), (Write::Secondary, Read::PrimaryThenSecondary));
        assert_eq!((policy.start, policy.disagreement), (Start::All, Duration::from_secs(5)));
        assert!(read(r#"{"primary":"a"}"#).unwrap_err().contains("secondary"));
        assert!(read(r#"{"primary":"a","secondary":"b","wirte":"both"}"#).unwrap_err().contains("wirte"));
        let error = read(r#"{"primary":"a","secondary":"b","read":"both"}"#).unwrap_err();
        assert!(error.contains("primary-then-secondary"), "{error}");
    }

    #[test]
    fn a_side_that_is_neither_read_nor_written_is_left_alone() {
        let policy = |write, read| Policy { write, read, ..Policy::default() };
        assert!(policy(Write::Both, Read::Primary).watches(Side::Secondary));
        assert!(policy(Write::Secondary, Read::Union).watches(Side::Primary));
        assert!(!policy(Write::Secondary, Read::Secondary).watches(Side::Primary));
    }
}
