//! The table a split registry is configured by.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The settings of [`Split`](super::Split) as a table of the configuration:
///
/// ```toml
/// [registry.by-team]
/// kind = "split"
/// default = "etcd"                 # names of other tables
/// routes = { "core-*" = "both" }
/// ```
///
/// The names lead to other tables, so whoever opens those makes the [`Split`](super::Split).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct SplitConfig {
    /// The registry of services that no route matches.
    pub default: String,
    /// From the name of a service, or the beginning of names and `*`, to a registry. The exact name
    /// decides, else the longest beginning.
    #[serde(default)]
    pub routes: BTreeMap<String, String>,
}
