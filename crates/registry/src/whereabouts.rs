//! Where in a graph of registries a backend stands, so that its log lines can say it.
//!
//! A dual registry asks its sides inside a span of its own; the drivers under it go on in that span and in
//! no other, since a span of a caller would live as long as they do.

use std::sync::Arc;

use tracing::Span;

/// The span of one side, inside that of the registry it stands in.
pub(crate) fn side(side: &'static str, name: &Arc<str>) -> Span {
    let above = current();
    match above.is_none() {
        true => tracing::error_span!(parent: None, "registry", side, name = &**name),
        false => tracing::error_span!(parent: &above, "registry", side, name = &**name),
    }
}

/// The span that this is asked in, if it is one of ours; none else.
pub(crate) fn current() -> Span {
    let current = Span::current();
    let is_ours = current.metadata().is_some_and(|metadata| metadata.target() == module_path!());
    if is_ours { current } else { Span::none() }
}
