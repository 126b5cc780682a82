//! Errors that name the side they come from.

use std::sync::Arc;

use meshwork_core::{Error, ErrorChain, ErrorKind};

use super::Side;

/// One error for what failed on one side or on both; `doing` is what was attempted, up to the side's name.
pub(super) fn blame(
    doing: &str,
    names: &[Arc<str>; 2],
    kind: ErrorKind,
    failing: &[(Side, Arc<Error>)],
) -> Arc<Error> {
    let name = |side: &Side| format!("the {side} side `{}`", names[side.at()]);
    let error = match failing {
        [] => Error::new(kind, doing),
        [(side, cause)] => Error::new(kind, format!("{doing} {}", name(side))).with_source(Arc::clone(cause)),
        [(one, first), (other, second), ..] => {
            let second = ErrorChain(&**second);
            Error::new(kind, format!("{doing} {} ({second}) and {}", name(other), name(one)))
                .with_source(Arc::clone(first))
        }
    };
    Arc::new(error)
}
