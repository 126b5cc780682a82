//! Two registries as one: announced on both, found as their union, so that a service can move from one to
//! the other without anybody noticing.
//!
//! [`merge::Merge`] decides what is shown and is a plain state machine without a runtime; the shells around
//! it watch, register and publish.

mod announcing;
mod blame;
mod certainty;
mod compare;
mod config;
mod face;
mod finding;
mod joint;
pub mod merge;
mod pairs;
mod places;
mod recent;
mod stats;
mod steering;

use std::{fmt, sync::Arc, time::Duration};

use meshwork_core::{Backend, Catalog, Error, Parts};

use announcing::Writer;
use finding::Finder;

use crate::catalog::{self, Member, SharedCatalog};

pub use compare::Told;
pub use config::{DualConfig, Policy, Read, Side, Start, Write};
pub use stats::{Difference, Disagreement, DualStats, SideStats, Standing};
pub use steering::Steering;

/// Two registries as one, to be announced on both and found as their union. Clones share everything.
///
/// # What is shown
/// - Both sides are joined by instance id. `leaving` on either side wins and is final for the id. Else
///   the record of the side that can be asked counts, the primary's when both can.
/// - A side that cannot be asked removes nobody. It keeps nobody either whom the other side has shown and
///   dropped, unless it has itself confirmed the instance since: asked anew, written anew, or 30 s later
///   still asked with success.
/// - Records that share an address (host and port) are one member: the one whose id a connection has
///   confirmed, before that the native one before the foreign one, then the one started last.
/// - An instance is [`held`](meshwork_core::View::held) when every side that shows it holds it. Each side
///   has its own guard, which today believes every removal, and is told all that clients see.
/// - An instance that both sides show, and one whose record says the same on the other side, is the same
///   `Arc` before and after: its node keeps its connection, whatever the sides do.
///
/// # How sure it is
/// `Fresh` when every side that is read is fresh. `Pending` until the first side answers, then never
/// again. Else `Stale`: the view is the best there is, `since` and `age` are those of the side whose answer
/// is the oldest, and the cause names each side that cannot be asked. So a client starts while one registry
/// is dead, and sees that it is. At the start a silent side is waited for 500 ms, one that fails not at all.
///
/// # To move from one registry to the other
/// Each step is safe to stay at and safe to go back from; each changes `write` or `read` in the
/// configuration, or by [`Steering`] while the process runs.
///
/// ```
/// # use meshwork_core::{Backend, Error, Instance, Query, ServiceName};
/// # use meshwork_registry::{Dual, Memory, dual::{Read, Write}};
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// # let (etcd, consul) = (Memory::new(), Memory::new());
/// # let (old, new) = (etcd.clone(), consul.clone());
/// let dual = Dual::new(old, new).named("etcd", "consul").read(Read::Primary);
/// let parts = dual.open()?;
/// # let users = ServiceName::new("users").unwrap();
/// let instance = Instance::new(users.clone());
/// let registration = parts.registry.unwrap().register(instance);
/// registration.live().await.unwrap();
/// let watch = parts.discovery.unwrap().watch(&Query::new(users.clone()));
/// assert_eq!(watch.ready().await.value().len(), 1);
///
/// // 1. Everybody writes both and reads the old one. What is not on both sides is reported.
/// while consul.instances(&users).is_empty() { tokio::task::yield_now().await }
/// // 2. Everybody reads both.
/// dual.steering().read(Read::Union);
/// // 3. When nobody reads the old one alone any more: it is left without the `leaving` mark.
/// dual.steering().write(Write::Secondary);
/// while !etcd.instances(&users).is_empty() { tokio::task::yield_now().await }
/// assert_eq!(watch.latest().value().len(), 1, "nobody noticed");
/// // 4. Read the new one, and put it in the place of the dual registry at the next release.
/// dual.steering().read(Read::Secondary);
/// # Ok::<(), Error>(())
/// # }).unwrap();
/// ```
///
/// # Announcing
/// Each side that is written has a registration of its own, which heals on its own. The whole is `Live`
/// when one is ([`Start::Any`]) or all are ([`Start::All`]); [`DualStats`] tells of each side. Leaving
/// leaves both at once, and a dead side delays the other by nothing. A side that announces nobody is
/// passed over.
///
/// The same registry on both sides is refused where it can be seen: opened parts that are shared, or
/// two that announce and describe themselves in the same words.
#[derive(Clone)]
pub struct Dual {
    sides: [Arc<dyn Backend>; 2],
    names: [Arc<str>; 2],
    steering: Steering,
    stats: Arc<DualStats>,
}

impl Dual {
    /// Announces on both and finds the union; one of them is enough to start.
    pub fn new(primary: impl Backend, secondary: impl Backend) -> Self {
        Self {
            sides: [Arc::new(primary), Arc::new(secondary)],
            names: ["".into(), "".into()],
            steering: Steering::new(Policy::default()),
            stats: Arc::default(),
        }
    }

    /// The same as a table of the configuration says. Whoever has opened the registries that the table
    /// names gives their [`Parts`], so that they can stand in other places too.
    pub fn with_config(primary: impl Backend, secondary: impl Backend, config: &DualConfig) -> Self {
        let dual = Self::new(primary, secondary).named(&config.primary, &config.secondary);
        dual.steering.change(|policy| *policy = config.policy());
        dual
    }

    /// What logs and errors call the sides. By default what each says of itself.
    #[must_use]
    pub fn named(mut self, primary: &str, secondary: &str) -> Self {
        self.names = [primary.into(), secondary.into()];
        self
    }

    /// Announces there. Default both.
    #[must_use]
    pub fn write(self, write: Write) -> Self {
        self.steering.write(write);
        self
    }

    /// Finds those. Default the union.
    #[must_use]
    pub fn read(self, read: Read) -> Self {
        self.steering.read(read);
        self
    }

    /// What it takes to be announced. Default any.
    #[must_use]
    pub fn start(self, start: Start) -> Self {
        self.steering.change(|policy| policy.start = start);
        self
    }

    /// Reports a disagreement that lasts this long. Default 30 s.
    #[must_use]
    pub fn report_after(self, disagreement: Duration) -> Self {
        self.steering.change(|policy| policy.disagreement = disagreement);
        self
    }

    /// The handle that changes writing and reading while it runs.
    pub fn steering(&self) -> Steering {
        self.steering.clone()
    }

    /// What it counts, and where its sides disagree.
    pub fn stats(&self) -> &Arc<DualStats> {
        &self.stats
    }

    /// The services of the sides that are read.
    fn catalog(&self, sides: [Arc<dyn Catalog>; 2], names: &[Arc<str>; 2]) -> SharedCatalog {
        let member = |(side, catalog): (Side, Arc<dyn Catalog>)| {
            let steering = self.steering();
            Member {
                catalog,
                name: format!("the {side} side `{}`", names[side.at()]).into(),
                lists: Box::new(|_| true),
                counts: Box::new(move || steering.policy().read.is_of(side)),
            }
        };
        let members = Side::BOTH.into_iter().zip(sides).map(member).collect();
        catalog::union("catalog of a dual registry", members, self.steering.policies())
    }

    fn open_side(&self, side: Side) -> Result<Parts, Error> {
        let in_context = |e: Error| {
            Error::new(e.kind(), format!("opening the {side} side of a dual registry")).with_source(e)
        };
        self.sides[side.at()].open().map_err(in_context)
    }
}

impl Backend for Dual {
    fn open(&self) -> Result<Parts, Error> {
        let [primary, secondary] = [self.open_side(Side::Primary)?, self.open_side(Side::Secondary)?];
        if is_same(&primary, &secondary) {
            let text = format!("both sides of a dual registry are the same: {}", primary.description);
            return Err(Error::invalid(text));
        }
        let mut parts = Parts::new(format!("dual of {} and {}", primary.description, secondary.description));
        let called = |side: Side, parts: &Parts| match &*self.names[side.at()] {
            "" => Arc::from(&*parts.description),
            _ => Arc::clone(&self.names[side.at()]),
        };
        let names = [called(Side::Primary, &primary), called(Side::Secondary, &secondary)];
        let called_sides = names.clone();
        let policy = self.steering.policy();
        let (steering, stats) = (&self.steering, &self.stats);
        let registries = [primary.registry, secondary.registry];
        let discoveries = [primary.discovery, secondary.discovery];
        let announces = registries.each_ref().map(Option::is_some);
        let finds = discoveries.each_ref().map(Option::is_some);
        let refuse = |what: &str, able: &str| {
            let text = format!("`{what}` of a dual registry means a side that {able} nobody");
            Err(Error::invalid(text))
        };
        let any = |is: [bool; 2], wanted: &dyn Fn(Side) -> bool| {
            Side::BOTH.into_iter().any(|side| is[side.at()] && wanted(side))
        };
        if any(announces, &|_| true) {
            if !any(announces, &|side| policy.write.is_on(side)) {
                return refuse("write", "announces");
            }
            let (steering, stats) = (steering.clone(), Arc::clone(stats));
            parts = parts.with_registry(Arc::new(Writer::new(registries, names.clone(), steering, stats)));
        }
        if any(finds, &|_| true) {
            if !any(finds, &|side| policy.read.is_of(side)) {
                return refuse("read", "finds");
            }
            let (steering, stats) = (steering.clone(), Arc::clone(stats));
            parts = parts.with_discovery(Arc::new(Finder::new(discoveries, names, steering, stats)));
        }
        if let (Some(primary), Some(secondary)) = (primary.catalog, secondary.catalog) {
            parts = parts.with_catalog(Arc::new(self.catalog([primary, secondary], &called_sides)));
        }
        Ok(parts)
    }
}

/// Whether both are surely one registry.
fn is_same(primary: &Parts, secondary: &Parts) -> bool {
    let shared = match (&primary.discovery, &secondary.discovery) {
        (Some(primary), Some(secondary)) => Arc::ptr_eq(primary, secondary),
        _ => false,
    };
    let announce = primary.registry.is_some() && secondary.registry.is_some();
    shared || (announce && primary.description == secondary.description)
}

impl fmt::Debug for Dual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dual")
            .field("names", &self.names)
            .field("policy", &self.steering.policy())
            .finish_non_exhaustive()
    }
}
