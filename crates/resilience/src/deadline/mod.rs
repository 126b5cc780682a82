//! How long a call may take, and who said so.
//!
//! The smallest of the inherited deadline, the request's header, the call's option and the configuration wins;
//! what is left of it travels on in `grpc-timeout` or `meshwork-timeout`, less at each hop. [`Deadline`] is the
//! arithmetic, [`DeadlineLayer`] the layer around calls going out, [`InheritLayer`] the one around handlers.

mod bound;
mod header;
mod inherit;
mod layer;
mod limit;

pub use bound::{Asked, Bound, Deadline, Limits, Passed, SetBy};
pub use header::{asked, write, write_first};
pub use inherit::{Carried, Inherit, InheritLayer, InheritService};
pub use layer::{DeadlineFuture, DeadlineLayer, DeadlineService, Timeout};
pub use limit::Limit;
