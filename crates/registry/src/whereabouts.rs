//! Where in a graph of registries a backend stands, so that its log lines can say it.
//!
//! A dual registry asks its sides inside a span of its own; the drivers under it go on in that span and in
//! no other, since a span of a caller would live as long as they do.

use std::sync::Arc;

use tracing::Span;

/// The name of the spans; no other span is gone on in.
const NAME: &str = "registry";

/// The span of one side, inside that of the registry it stands in.
pub(crate) fn side(side: &'static str, name: &Arc<str>) -> Span {
    let above = current();
    match above.is_none() {
        true => tracing::error_span!(parent: None, NAME, side, name = &**name),
        false => tracing::error_span!(parent: &above, NAME, side, name = &**name),
    }
}

/// The span that this is asked in, if it is one of ours; none else.
pub(crate) fn current() -> Span {
    let current = Span::current();
    if current.metadata().is_some_and(|metadata| metadata.name() == NAME) { current } else { Span::none() }
}
