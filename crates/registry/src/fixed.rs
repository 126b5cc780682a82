//! A list of endpoints that never changes: for tests, for `direct:///` targets, for what no registry knows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::{StreamExt, future, stream};
use meshwork_core::{
    Backend, Catalog, Change, Changes, Drive, Endpoint, Error, Host, Instance, InstanceId, NameError, Origin,
    Parts, Query, ServiceName, Source, Watch,
};
use serde::Deserialize;

use crate::{Driven, DriverOptions};

/// The settings of [`Fixed`], as a table of the configuration:
///
/// ```toml
/// [registry.fixed]
/// services = { users = ["http://10.0.0.1:80", "grpc://10.0.0.1:90"] }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FixedConfig {
    /// The endpoints of each service, `scheme://host:port`. Those of one host and port are one instance.
    #[serde(default)]
    pub services: BTreeMap<ServiceName, Vec<Endpoint>>,
}

/// Services at fixed endpoints.
///
/// Each host and port is one instance with the id `static-<host>-<port>`; it is foreign, so nothing is
/// confirmed or guarded. There is no announcing side: an `App` over this registry serves
/// unannounced, since the list is the operator's.
///
/// ```
/// # use meshwork_core::Error;
/// # use meshwork_registry::Fixed;
/// let fixed = Fixed::new()
///     .service("users", ["http://10.0.0.1:80", "http://10.0.0.2:80"])?
///     .service("orders", ["grpc://orders.internal:9000"])?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fixed {
    services: BTreeMap<ServiceName, Vec<Arc<Instance>>>,
}

impl Fixed {
    /// No services yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds endpoints of a service, `scheme://host:port` each.
    ///
    /// # Errors
    /// [`Invalid`](meshwork_core::ErrorKind::Invalid) when the name is no service name or an endpoint is
    /// malformed.
    pub fn service<E: AsRef<str>>(
        self,
        name: &str,
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<Self, Error> {
        let fail = |e: NameError| Error::invalid("adding a static service").with_source(e);
        let name = ServiceName::new(name).map_err(fail)?;
        let endpoints: Result<Vec<Endpoint>, Error> =
            endpoints.into_iter().map(|endpoint| endpoint.as_ref().parse()).collect();
        let in_context = |e| Error::invalid(format!("adding static service `{name}`")).with_source(e);
        let endpoints = endpoints.map_err(in_context)?;
        Ok(self.with(name, endpoints))
    }

    /// Adds endpoints of a service that are already parsed.
    #[must_use]
    pub fn with(mut self, name: ServiceName, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let mut instances = self.services.remove(&name).unwrap_or_default();
        for endpoint in endpoints {
            add(&mut instances, &name, endpoint);
        }
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        self.services.insert(name, instances);
        self
    }

    /// From its table in the configuration.
    pub fn from_config(config: FixedConfig) -> Self {
        config.services.into_iter().fold(Self::new(), |fixed, (name, endpoints)| fixed.with(name, endpoints))
    }
}

/// Endpoints of one host and port belong to one instance. That two ports of a host do, would be a guess.
fn add(instances: &mut Vec<Arc<Instance>>, service: &ServiceName, endpoint: Endpoint) {
    let id = id_of(&endpoint);
    if let Some(known) = instances.iter_mut().find(|instance| instance.id == id) {
        if !known.endpoints.contains(&endpoint) {
            Arc::make_mut(known).endpoints.push(endpoint);
        }
        return;
    }
    let mut instance = Instance::with_id(service.clone(), id);
    instance.origin = Origin::Foreign;
    instance.start_time = None;
    instance.frame_version = "".into();
    instance.endpoints.push(endpoint);
    instances.push(Arc::new(instance));
}

/// `static-<host>-<port>`; what may not stand in an id becomes `_`, and a long name is cut.
fn id_of(endpoint: &Endpoint) -> InstanceId {
    let host = match endpoint.host() {
        Host::Ip(ip) => ip.to_string().replace(':', "_"),
        Host::Name(name) => name.chars().take(100).collect(),
    };
    InstanceId::new(format!("static-{host}-{}", endpoint.port()))
        .expect("invariant: a host has only letters, digits, `.`, `-` and `_`")
}

impl Drive for Fixed {}

impl Source for Fixed {
    fn subscribe(&self, query: &Query) -> Changes {
        let known = query.only(&[]).and_then(|()| {
            self.services.get(query.service()).cloned().ok_or_else(|| {
                let names: Vec<_> = self.services.keys().map(ServiceName::as_str).collect();
                Error::invalid(format!(
                    "finding `{}`: the static list has only [{}]",
                    query.service(),
                    names.join(", ")
                ))
            })
        });
        match known {
            Ok(instances) => {
                let set = stream::once(future::ready(Ok(Change::Set(instances))));
                set.chain(stream::pending()).boxed()
            }
            Err(error) => stream::once(future::ready(Err(error))).boxed(),
        }
    }
}

impl Backend for Fixed {
    fn open(&self) -> Result<Parts, Error> {
        let driven = Driven::new(self.clone(), DriverOptions::default());
        let names: Vec<_> = self.services.keys().map(ServiceName::as_str).collect();
        let description = format!("static list of [{}]", names.join(", "));
        let listed = Arc::new(self.services.keys().cloned().collect());
        let parts = Parts::new(description).with_discovery(driven.discovery());
        Ok(parts.with_catalog(Arc::new(Listed(listed))))
    }
}

/// The services of a list, which never change.
struct Listed(Arc<BTreeSet<ServiceName>>);

impl Catalog for Listed {
    fn services(&self) -> Watch<BTreeSet<ServiceName>> {
        Watch::fixed(Arc::clone(&self.0))
    }
}

impl Backend for FixedConfig {
    fn open(&self) -> Result<Parts, Error> {
        Fixed::from_config(self.clone()).open()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshwork_core::{ErrorKind, Staleness};
    use tokio::time::timeout;

    use super::*;

    fn query(name: &str) -> Query {
        ServiceName::new(name).unwrap().into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_listed_service_is_fresh_at_once() {
        let fixed = Fixed::new().service("users", ["http://b:2", "http://a:1", "grpc://a:1"]).unwrap();
        let parts = fixed.open().unwrap();
        assert!(parts.registry.is_none(), "an App over a static list serves unannounced");
        let view = parts.discovery.unwrap().watch(&query("users")).ready().await;
        let ids: Vec<_> = view.value().iter().map(|i| i.id.as_str()).collect();
        assert_eq!(ids, ["static-a-1", "static-b-2"]);
        assert_eq!(view.value()[0].endpoints.len(), 2);
        assert!(!view.value()[0].is_native());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unlisted_service_or_a_parameter_is_unknown_not_empty() {
        let discovery = Fixed::new().service("users", ["http://a:1"]).unwrap().open().unwrap().discovery;
        let discovery = discovery.unwrap();
        for (query, text) in [(query("user"), "has only [users]"), (query("users").with("dc", "1"), "`dc`")] {
            let mut watch = discovery.watch(&query);
            let cause = timeout(Duration::from_secs(5), async {
                loop {
                    if let Staleness::Pending { cause: Some(cause) } = watch.changed().await.staleness() {
                        return Arc::clone(cause);
                    }
                }
            });
            let cause = cause.await.unwrap();
            assert_eq!(cause.kind(), ErrorKind::Invalid);
            assert!(cause.to_string().contains(text), "{cause}");
        }
    }

    #[test]
    fn malformed_entries_are_named() {
        let error = Fixed::new().service("users", ["http://a:1", "a:2"]).unwrap_err();
        let chain = meshwork_core::ErrorChain(&error).to_string();
        assert!(chain.contains("`users`") && chain.contains("`a:2`"), "{chain}");
        assert!(Fixed::new().service("-x", ["http://a:1"]).is_err());
        let fixed = Fixed::new().service("users", ["http://[fd00::1]:80"]).unwrap();
        assert_eq!(fixed.services.values().next().unwrap()[0].id.as_str(), "static-fd00__1-80");
    }

    #[test]
    fn a_table_of_the_configuration_is_read_strictly() {
        let read = |json: &str| serde_json::from_str::<FixedConfig>(json);
        let config = read(r#"{"services":{"users":["http://a:1"]}}"#).unwrap();
        assert_eq!(Fixed::from_config(config), Fixed::new().service("users", ["http://a:1"]).unwrap());
        assert!(read(r#"{"service":{}}"#).is_err());
        assert!(read(r#"{"services":{"users":["a:1"]}}"#).is_err());
    }
}
