//! How a behaviour ends.

use super::rig::Undone;
use crate::Error;

/// Why a behaviour did not end well.
#[derive(Clone, Debug)]
pub(super) enum Flaw {
    /// The rig cannot show it.
    Skipped(String),
    /// It is not as it should be.
    Failed(String),
}

/// How a behaviour ends.
pub(super) type Proof = Result<(), Flaw>;

/// Ends a behaviour unless it is so; the rest says what was seen.
macro_rules! ensure {
    ($condition:expr, $($seen:tt)+) => {
        let holds: bool = $condition;
        if !holds {
            return Err($crate::conformance::flaw::Flaw::Failed(format!($($seen)+)));
        }
    };
}
pub(super) use ensure;

impl From<Undone> for Flaw {
    fn from(undone: Undone) -> Self {
        match undone {
            Undone::Cannot(why) => Self::Skipped(why),
            Undone::Failed(error) => error.into(),
        }
    }
}

impl From<Error> for Flaw {
    fn from(error: Error) -> Self {
        Self::Failed(format!("the rig failed: {error:?}"))
    }
}
