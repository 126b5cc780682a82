//! What is configured of a call's time. The arithmetic is resilience's.

use meshwork_core::Verdict;
use meshwork_resilience::deadline::{Limits, Passed};

use crate::{CallError, CallErrorKind, ClientConfig, MethodConfig};

/// What is configured for the method at `path`.
pub(crate) fn method_of<'a>(path: &str, config: &'a ClientConfig) -> Option<&'a MethodConfig> {
    if config.methods.is_empty() {
        return None;
    }
    config.methods.get(path.strip_prefix('/').unwrap_or(path))
}

/// The limits of a call of `method`.
pub(crate) fn limits<'a>(method: Option<&'a MethodConfig>, config: &'a ClientConfig) -> Limits<'a> {
    Limits { method: method.and_then(|method| method.timeout.as_ref()), client: config.timeout.as_ref() }
}

/// The limits of a call to `path`.
pub(crate) fn limits_at<'a>(path: &str, config: &'a ClientConfig) -> Limits<'a> {
    limits(method_of(path, config), config)
}

impl From<Passed> for CallError {
    fn from(passed: Passed) -> Self {
        Self::new(CallErrorKind::Deadline, passed.to_string()).with_delivered(passed.delivered())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshwork_resilience::deadline::{Asked, Bound, Deadline};
    use tokio::time::Instant;

    use super::*;
    use crate::Limit;

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn the_error_names_the_methods_limit_where_it_has_one() {
        let mut config = ClientConfig::default();
        config.methods.insert("a.B/C".into(), MethodConfig::new(Some(Limit::new(5 * MS, "here")), false));
        let limits = limits_at("/a.B/C", &config);
        let deadline = Deadline::new(Instant::now(), &Asked::default(), limits);
        let error = CallError::from(deadline.body().unwrap().passed("end", limits).delivered_maybe());
        assert_eq!(error.to_string(), "no end within 5ms (here) (may have been delivered)");
    }

    #[tokio::test(start_paused = true)]
    async fn the_built_in_default_yields_to_the_caller_and_cuts_neither_streams_nor_bodies() {
        let (now, config) = (Instant::now(), ClientConfig::default());
        let limits = limits_at("/", &config);
        let deadline = Deadline::new(now, &Asked::default(), limits);
        assert_eq!(deadline.waiting().map(Bound::at), Some(now + 10_000 * MS));
        assert!(deadline.exchange(true).is_none() && deadline.body().is_none());
        let asked = Asked { option: Some(60_000 * MS), ..Asked::default() };
        let chosen = Deadline::new(now, &asked, limits);
        assert_eq!(chosen.exchange(false).map(Bound::at), Some(now + 60_000 * MS));
    }
}
