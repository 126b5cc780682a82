//! What passed of a call's time, as the call's error. The arithmetic is resilience's.

use meshwork_core::Verdict;
use meshwork_resilience::deadline::Passed;

use crate::{CallError, CallErrorKind};

impl From<Passed> for CallError {
    fn from(passed: Passed) -> Self {
        Self::new(CallErrorKind::Deadline, passed.to_string()).with_delivered(passed.delivered())
    }
}
