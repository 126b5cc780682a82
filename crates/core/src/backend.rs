//! What the author of a registry backend writes. Retry, sharing, caching and staleness are the drivers'.

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
};

use futures_core::Stream;

use crate::{Catalog, Discovery, Error, Instance, InstanceId, Query, Refusal, Registry};

/// A boxed future that may be sent between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What a subscription tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// The complete set; the first item of every subscription but for refusals. Absence from it is not
    /// a delete.
    Set(Vec<Arc<Instance>>),
    /// What changed, all of one revision. A removal was seen as an event.
    Delta {
        /// New and changed instances.
        put: Vec<Arc<Instance>>,
        /// Instances whose record was removed.
        removed: Vec<InstanceId>,
    },
    /// A record that was not taken; comes before the `Set` or `Delta` it was read with. A known id keeps
    /// its last good record.
    Refused {
        /// The instance it concerns, when its key tells.
        id: Option<InstanceId>,
        /// Where the record stands: a key, a path.
        record: Box<str>,
        /// Why it was not taken.
        reason: Refusal,
    },
}

/// The stream of one subscription. An error ends it; the driver subscribes again.
pub type Changes = Pin<Box<dyn Stream<Item = Result<Change, Error>> + Send>>;

/// The work that a backend's subscriptions and claims share: a connection, a watch stream, a poll.
pub trait Drive: Send + Sync + 'static {
    /// Runs while any subscription or claim lives; returns when it failed and should be run again after
    /// a back-off. Dropped when nothing needs it any more. By default there is no shared work.
    ///
    /// # Cancel safety
    /// May be dropped at any await and run anew.
    fn drive(&self) -> BoxFuture<'_, Error> {
        Box::pin(pending())
    }
}

/// The finding side of a backend.
pub trait Source: Drive {
    /// A stream of what `query` finds: refusals, then a `Set`, then whatever follows. Lazy: no work is
    /// done before it is polled. It ends with an error or by being dropped.
    fn subscribe(&self, query: &Query) -> Changes;
}

/// The announcing side of a backend.
///
/// The driver bounds `claim`, `update` and `release` by the request timeout (3 s by default), and cuts a
/// claim or an update under way when the instance leaves.
pub trait Announcer: Drive {
    /// What the backend holds for one registration: a lease and its number, a check, a lock.
    type Claim: Send + Sync + 'static;

    /// Announces `instance`.
    ///
    /// Whatever may live on is noted in `claim` before the request that makes it is sent; a claim noted
    /// earlier is taken over, or ended after the new record stands. `Ok` only when nothing else that is
    /// noted can outlive it.
    ///
    /// # Errors
    /// Whatever the backend met; the driver tries again with the same `claim`.
    ///
    /// # Cancel safety
    /// May be dropped at any await: what is noted in `claim` is enough to release all that may exist.
    fn claim(
        &self,
        instance: &Instance,
        claim: &mut Option<Self::Claim>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Keeps the record and verifies it (value and lease as last written, read again after every gap of
    /// its watch); returns when it is lost or differs.
    ///
    /// # Cancel safety
    /// May be dropped at any await and called again: every deadline lives in the claim or the backend.
    fn hold(&self, claim: &mut Self::Claim) -> impl Future<Output = Error> + Send;

    /// Brings a changed record to the registry; it is never absent in between.
    ///
    /// # Errors
    /// Whatever the backend met; the driver claims again.
    ///
    /// # Cancel safety
    /// May be dropped at any await; the driver claims again.
    fn update(
        &self,
        claim: &mut Self::Claim,
        instance: &Instance,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Ends all that is noted, so that nothing of it can appear again, not by a late request either.
    ///
    /// # Errors
    /// When the registry did not confirm it.
    fn release(&self, claim: Self::Claim) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The parts of an opened backend.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct Parts {
    /// Announces, unless the platform does.
    pub registry: Option<Arc<dyn Registry>>,
    /// Finds.
    pub discovery: Option<Arc<dyn Discovery>>,
    /// Lists services, where the backend can.
    pub catalog: Option<Arc<dyn Catalog>>,
    /// One line for people: kind, addresses, prefix; no secrets.
    pub description: Box<str>,
}

impl Parts {
    /// No parts yet; `description` is one line for people without secrets.
    pub fn new(description: impl Into<Box<str>>) -> Self {
        Self { description: description.into(), ..Self::default() }
    }

    /// With an announcing side.
    #[must_use]
    pub fn with_registry(mut self, registry: Arc<dyn Registry>) -> Self {
        self.registry = Some(registry);
        self
    }

    /// With a finding side.
    #[must_use]
    pub fn with_discovery(mut self, discovery: Arc<dyn Discovery>) -> Self {
        self.discovery = Some(discovery);
        self
    }

    /// With a list of services.
    #[must_use]
    pub fn with_catalog(mut self, catalog: Arc<dyn Catalog>) -> Self {
        self.catalog = Some(catalog);
        self
    }
}

/// A registry as `App::with_registry` takes it.
pub trait Backend: Send + Sync + 'static {
    /// Opens it without any I/O.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) when its settings cannot work: no endpoint, a malformed
    /// address or prefix.
    fn open(&self) -> Result<Parts, Error>;
}

/// Parts are a backend that was opened before: whoever opens them shares them, and with them the
/// connection, the subscriptions and the claims of their registry.
impl Backend for Parts {
    fn open(&self) -> Result<Parts, Error> {
        Ok(self.clone())
    }
}

impl<B: Backend + ?Sized> Backend for Box<B> {
    fn open(&self) -> Result<Parts, Error> {
        (**self).open()
    }
}

impl<B: Backend + ?Sized> Backend for Arc<B> {
    fn open(&self) -> Result<Parts, Error> {
        (**self).open()
    }
}

const _: fn(Box<dyn Drive>) = |_| {};
const _: fn(Box<dyn Source>) = |_| {};
const _: fn(Box<dyn Backend>) = |_| {};
