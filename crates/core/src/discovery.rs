//! Finding: what a client sees of a registry.

use std::collections::BTreeSet;

use crate::{Query, ServiceName, Watch};

/// Finds the instances of services.
///
/// Synchronous and infallible: a dead registry is a state of the watched value, not an exception.
pub trait Discovery: Send + Sync + 'static {
    /// A watch of what `query` finds. Equal queries share one subscription.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    fn watch(&self, query: &Query) -> Watch;
}

/// Lists the services a registry knows. Optional: not every registry can.
pub trait Catalog: Send + Sync + 'static {
    /// A watch of all service names.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    fn services(&self) -> Watch<BTreeSet<ServiceName>>;
}

const _: fn(Box<dyn Discovery>) = |_| {};
const _: fn(Box<dyn Catalog>) = |_| {};
