//! `[client.<service>.subsets.<name>]`: a part of a service that calls are sent to by rule.

use super::review::Review;
use crate::layers::End;
use serde::Deserialize;
use std::collections::BTreeMap;

/// `[client.<service>.subsets.<name>]`: which instances it has, and which calls go there. All that is said of the
/// instances must hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SubsetConfig {
    /// Instances of this application version. Default: none, of any.
    pub version: Option<String>,
    /// Instances of this deployment. Default: none, of any.
    pub deployment: Option<String>,
    /// Instances with these labels. Default: none, with any.
    pub labels: BTreeMap<String, String>,
    /// The part of the calls whose lane names no subset that goes here, 0.0 to 1.0; by the call's key where it has
    /// one. Default: 0.0.
    pub share: f64,
    /// Where calls go that none of its instances can take. Default: `base`.
    pub fallback: Fallback,
}

/// Where calls of a subset go that none of its instances can take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Fallback {
    /// To the instances of no subset; to all, when there are none of those.
    #[default]
    Base,
    /// To any instance.
    Any,
    /// Nowhere: they fail.
    Strict,
}

/// Judges all subsets of a client.
pub(super) fn review(subsets: &BTreeMap<String, SubsetConfig>, review: &mut Review<'_>) {
    for (name, subset) in subsets {
        let key = format!("subsets.\"{name}\"");
        // A lane travels in a header, and no further when it is longer.
        if name.is_empty() || name.len() > 256 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = "a lane has 1 to 256 visible characters of ASCII";
            review.refuse(&key, End::Key, message);
        }
        if subset.version.is_none() && subset.deployment.is_none() && subset.labels.is_empty() {
            let message = "it has every instance\nset `version`, `deployment` or `labels`";
            review.refuse(&key, End::Key, message);
        }
        review.within(&format!("{key}.share"), subset.share, 0.0..=1.0);
    }
    let sum: f64 = subsets.values().map(|subset| subset.share).sum();
    // What decimal fractions lose in binary is no mistake.
    review.require(sum <= 1.0 + 1e-9, "subsets", || format!("the shares make {sum:.2}, more than 1.0"));
}
