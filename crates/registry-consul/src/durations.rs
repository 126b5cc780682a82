//! Durations as Consul writes them.

use std::time::Duration;

/// Whole milliseconds.
pub(crate) fn for_consul(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}
