//! A table from services to registries, for both directions.

mod config;
mod routes;
mod unannounced;

use std::{fmt, sync::Arc};

use meshwork_core::{
    Backend, Discovery, Error, ErrorKind, Instance, Instances, Parts, Publisher, Query, Registration,
    Registry, Staleness, Watch,
};

use tokio::sync::watch;

use routes::Routes;

use crate::catalog::{self, Member, SharedCatalog};

pub use config::SplitConfig;

/// Sends each service to the registry that its name leads to, to be announced and to be found there.
///
/// The exact name decides, else the longest beginning, else the default. Nothing is merged and nothing
/// is shared: a registry that is down affects its own services alone. To lead several routes to one
/// registry over one connection, open it once and give its [`Parts`] to each.
///
/// ```
/// # use meshwork_core::{Backend, Error};
/// # use meshwork_registry::{Dual, Memory, Split};
/// let etcd = Memory::new().open()?;       // each stands for a real registry here
/// let consul = Memory::new().open()?;
/// let split = Split::new(etcd.clone())
///     .route("core-*", Dual::new(etcd, consul.clone()))
///     .route("core-legacy", consul);
/// let parts = split.open()?;
/// assert!(parts.registry.is_some() && parts.discovery.is_some());
///
/// let error = Split::new(Memory::new()).route("core*s", Memory::new()).open().err().unwrap();
/// assert!(error.to_string().contains("`core*s`"));
/// # Ok::<(), Error>(())
/// ```
///
/// A service whose registry announces nobody (a static list) is live at once: an `App` over that registry
/// alone would serve it unannounced as well.
#[derive(Clone)]
pub struct Split {
    routes: Routes<Arc<dyn Backend>>,
    fault: Option<Box<str>>,
}

/// The opened registries of a split.
struct Opened(Routes<Parts>);

// === impl Split ===

impl Split {
    /// All services in `default`, until routes say otherwise.
    pub fn new(default: impl Backend) -> Self {
        Self { routes: Routes::new(Arc::new(default)), fault: None }
    }

    /// Services of this name (`users`), or whose names begin like this (`core-*`), are in `backend`.
    ///
    /// A pattern that is malformed or given twice is an error of `open`, which names it.
    #[must_use]
    pub fn route(mut self, pattern: &str, backend: impl Backend) -> Self {
        if let Err(fault) = self.routes.add(pattern, Arc::new(backend)) {
            self.fault.get_or_insert(fault.to_string().into());
        }
        self
    }

    /// Whether `pattern` can be a route: for whoever reads a table and knows where it stands.
    ///
    /// # Errors
    /// [`Invalid`](ErrorKind::Invalid) naming the pattern.
    pub fn check(pattern: &str) -> Result<(), Error> {
        Routes::new(()).add(pattern, ())
    }
}

impl Backend for Split {
    fn open(&self) -> Result<Parts, Error> {
        if let Some(fault) = &self.fault {
            return Err(Error::invalid(fault.clone()));
        }
        let opened = self.routes.try_map(|pattern, backend| {
            let in_context =
                |e: Error| Error::new(e.kind(), format!("opening route `{pattern}`")).with_source(e);
            backend.open().map_err(in_context)
        })?;
        let words: Vec<_> =
            opened.iter().map(|(pattern, parts)| format!("{pattern} = {}", parts.description)).collect();
        let mut parts = Parts::new(format!("split of {}", words.join("; ")));
        let announces = opened.iter().any(|(_, parts)| parts.registry.is_some());
        let finds = opened.iter().any(|(_, parts)| parts.discovery.is_some());
        let opened = Arc::new(Opened(opened));
        if let Some(services) = opened.catalog() {
            parts = parts.with_catalog(Arc::new(services));
        }
        if announces {
            parts = parts.with_registry(Arc::<Opened>::clone(&opened));
        }
        if finds {
            parts = parts.with_discovery(opened);
        }
        Ok(parts)
    }
}

impl fmt::Debug for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patterns: Vec<_> = self.routes.iter().map(|(pattern, _)| pattern).collect();
        f.debug_struct("Split").field("routes", &patterns).finish_non_exhaustive()
    }
}

// === impl Opened ===

impl Opened {
    /// The services of all registries, each from the one its name leads to; none when one cannot list its own.
    fn catalog(self: &Arc<Self>) -> Option<SharedCatalog> {
        let member = |(pattern, parts): (String, &Parts)| {
            let (opened, route) = (Arc::clone(self), pattern.clone());
            Some(Member {
                catalog: parts.catalog.clone()?,
                name: format!("route `{pattern}`").into(),
                lists: Box::new(move |service| opened.0.pattern_of(service) == route),
                counts: Box::new(|| true),
            })
        };
        let members = self.0.iter().map(member).collect::<Option<Vec<_>>>()?;
        let (_never, turns) = watch::channel(());
        Some(catalog::union("catalog of a split registry", members, turns))
    }
}

impl Registry for Opened {
    fn register(&self, instance: Instance) -> Registration {
        match &self.0.of(&instance.service).registry {
            Some(registry) => registry.register(instance),
            None => unannounced::register(instance),
        }
    }
}

impl Discovery for Opened {
    fn watch(&self, query: &Query) -> Watch {
        let parts = self.0.of(query.service());
        match &parts.discovery {
            Some(discovery) => discovery.watch(query),
            None => {
                let text = format!("finding `{query}`: its registry ({}) finds nobody", parts.description);
                let cause = Some(Arc::new(Error::new(ErrorKind::Unsupported, text)));
                let publisher = Publisher::<Instances>::new(Arc::new([]));
                publisher.restate(Staleness::Pending { cause });
                publisher.watch()
            }
        }
    }
}
