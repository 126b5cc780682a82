//! `[client.<service>]` and what of `[service]` concerns callers, as the settings of a channel.

use std::{collections::HashMap, sync::Arc, time::Duration};

use http::HeaderName;
use meshwork_client::{
    ClientConfig, Connect, Limit, LimitConfig, MethodConfig,
    balance::{self, Policy, Subset},
};
use meshwork_config::{self as config, Balance, Config, Fallback, Origin, SubsetConfig, TlsConfig};
use meshwork_core::{Endpoint, Error, Scheme};

/// The keys of `[client.<service>]` that a running channel takes over; tables with all that is in them.
const LIVE: [&str; 13] = [
    "timeout",
    "attempt_timeout",
    "balance",
    "hash_header",
    "hash_bound",
    "choices",
    "zone_aware",
    "zone_skew",
    "subsets",
    "limit",
    "hedge",
    "methods",
    "retry",
];

/// Who is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callee<'a> {
    /// The service, as `[client.<service>]` names it.
    pub(crate) service: &'a str,
    /// The endpoints in the order of a `direct:///` target.
    pub(crate) order: Option<&'a [Endpoint]>,
}

/// Whether a running channel takes over a changed `key`.
pub(crate) fn is_live(key: &str) -> bool {
    let below = key.strip_prefix("client.").and_then(|rest| {
        // The name of a service has quotes where it has dots.
        let name =
            rest.strip_prefix('"').map_or_else(|| rest.find('.'), |quoted| quoted.find('"').map(|at| at + 2));
        rest[name?..].strip_prefix('.')
    });
    below.is_some_and(|below| {
        below != "retry.budget" && LIVE.iter().any(|live| crate::live::is_below(below, live))
    })
}

/// How `[client.<service>.tls]` wants connections to be opened, where there is one.
///
/// # Errors
/// `Invalid` when it cannot work, `Unsupported` when this build has no TLS.
pub(crate) fn connect(config: &Config, service: &str) -> Result<Option<Arc<dyn Connect>>, Error> {
    let tls = config.client(service).tls.as_ref();
    tls.map(|tls| secured(&format!("`[client.{service}.tls]`"), tls)).transpose()
}

/// `[client.<service>]`, with the place where each limit was set; all but its TLS.
///
/// # Errors
/// `Invalid` for the name of a header that is none.
pub(crate) fn client(config: &Config, callee: Callee<'_>) -> Result<ClientConfig, Error> {
    let service = callee.service;
    let said = config.client(service);
    let reader = Reader { config, service };
    let mut policies = Policies { said, order: callee.order, made: HashMap::new() };
    let mut client = ClientConfig::default();
    client.timeout = (!said.timeout.is_zero()).then(|| reader.time("timeout", said.timeout));
    client.attempt_timeout = said.attempt_timeout.map(|limit| reader.time("attempt_timeout", limit));
    client.connect_timeout = said.connect_timeout;
    client.policy = policies.of(said.balance);
    client.hash_header = reader.header("hash_header", said.hash_header.as_deref())?;
    client.subsets = said.subsets.iter().map(|(name, said)| subset(name, said)).collect();
    client.zones.aware = said.zone_aware;
    client.zones.max_skew = said.zone_skew;
    client.aperture = said.aperture.map(|size| usize::try_from(size.get()).unwrap_or(usize::MAX));
    client.limit = reader.limit("limit", &said.limit);
    client.hedge = said.hedge;
    client.max_connections = said.max_connections.get().into();
    client.max_age = said.max_age;
    client.idle = (!said.idle.is_zero()).then_some(said.idle);
    client.retry.attempts = said.retry.attempts;
    client.retry.budget = said.retry.budget;
    client.scheme = said.scheme.and_then(|scheme| scheme.as_str().parse::<Scheme>().ok());
    for (name, method) in &said.methods {
        client.methods.insert(name.clone(), reader.method(name, method, &mut policies)?);
    }
    client.local.region = config.service().region.as_deref().unwrap_or_default().into();
    client.local.zone = config.service().zone.as_deref().unwrap_or_default().into();
    client.addresses.allow_loopback = config.is_development()
        || config.service().advertise.allow_loopback
        || config
            .service()
            .http
            .as_deref()
            .is_some_and(|addr| addr.starts_with("127.") || addr.starts_with("[::1]"));
    Ok(client)
}

/// One client's part of the configuration, with its places.
struct Reader<'a> {
    config: &'a Config,
    service: &'a str,
}

impl Reader<'_> {
    fn key(&self, key: &str) -> String {
        match self.service.contains('.') {
            true => format!("client.\"{}\".{key}", self.service),
            false => format!("client.{}.{key}", self.service),
        }
    }

    fn time(&self, key: &str, duration: Duration) -> Limit {
        let key = self.key(key);
        match self.config.origin(&key) {
            Origin::Default => Limit::fallback(duration, format!("the default of `{key}`")),
            origin => Limit::new(duration, format!("`{key}` ({origin})")),
        }
    }

    fn limit(&self, key: &str, said: &config::LimitConfig) -> LimitConfig {
        let key = self.key(key);
        let set = if said.concurrency.is_some() { "concurrency" } else { "rate" };
        let mut limit = LimitConfig::default();
        limit.concurrency = said.concurrency;
        (limit.rate, limit.burst) = (said.rate, said.burst);
        limit.queue = usize::try_from(said.queue).unwrap_or(usize::MAX);
        limit.longest_wait = said.longest_wait;
        limit.origin = format!("`{key}` ({})", self.config.origin(&format!("{key}.{set}"))).into();
        limit
    }

    fn header(&self, key: &str, name: Option<&str>) -> Result<Option<HeaderName>, Error> {
        let parse = |name: &str| {
            HeaderName::from_bytes(name.as_bytes()).map_err(|error| {
                let text = format!("`{}`: `{}` is no name of a header", self.key(key), name.escape_debug());
                Error::invalid(text).with_source(error)
            })
        };
        name.map(parse).transpose()
    }

    fn method(
        &self,
        name: &str,
        said: &config::MethodConfig,
        policies: &mut Policies<'_>,
    ) -> Result<MethodConfig, Error> {
        let key = |key: &str| format!("methods.\"{name}\".{key}");
        let mut method = MethodConfig::default();
        method.timeout = said.timeout.map(|limit| self.time(&key("timeout"), limit));
        method.attempt_timeout = said.attempt_timeout.map(|limit| self.time(&key("attempt_timeout"), limit));
        method.idempotent = said.idempotent;
        method.attempts = said.retry.attempts;
        method.hedge = said.hedge;
        method.policy = said.balance.map(|balance| policies.of(balance));
        method.hash_header = self.header(&key("hash_header"), said.hash_header.as_deref())?;
        method.limit = self.limit(&key("limit"), &said.limit);
        Ok(method)
    }
}

/// The policies of one client: methods that name the same one share it, and so a picker.
struct Policies<'a> {
    said: &'a config::ClientConfig,
    order: Option<&'a [Endpoint]>,
    made: HashMap<Balance, Arc<dyn Policy>>,
}

impl Policies<'_> {
    fn of(&mut self, balance: Balance) -> Arc<dyn Policy> {
        let made = self.made.get(&balance).cloned();
        made.unwrap_or_else(|| {
            let policy = self.make(balance);
            self.made.insert(balance, Arc::clone(&policy));
            policy
        })
    }

    fn make(&self, balance: Balance) -> Arc<dyn Policy> {
        match (balance, self.order) {
            (Balance::RoundRobin, _) => Arc::new(balance::RoundRobin::default()),
            (Balance::WeightedRoundRobin, _) => Arc::new(balance::WeightedRoundRobin::default()),
            (Balance::LeastRequest, _) => {
                Arc::new(balance::LeastRequest::default().choices(self.said.choices.into()))
            }
            (Balance::RingHash, _) => Arc::new(balance::RingHash::default().bound(self.said.hash_bound)),
            (Balance::First, Some(order)) => Arc::new(balance::First::in_order(order.iter().cloned())),
            (Balance::First, None) => Arc::new(balance::First::default()),
            // `p2c`, and what a newer configuration may know.
            _ => Arc::new(balance::P2c::default()),
        }
    }
}

fn subset(name: &str, said: &SubsetConfig) -> Subset {
    let fallback = match said.fallback {
        Fallback::Any => balance::Fallback::Any,
        Fallback::Strict => balance::Fallback::Strict,
        // `base`, and what a newer configuration may know.
        _ => balance::Fallback::Base,
    };
    let mut subset = Subset::named(name).share(said.share).fallback(fallback);
    if let Some(version) = &said.version {
        subset = subset.version(version.as_str());
    }
    if let Some(deployment) = &said.deployment {
        subset = subset.deployment(deployment.as_str());
    }
    said.labels.iter().fold(subset, |subset, (key, value)| subset.label(key.as_str(), value.as_str()))
}

/// TLS to whom the machine trusts.
///
/// # Errors
/// `Unsupported` when this build has no TLS.
pub(crate) fn secure_connect(place: &str) -> Result<Arc<dyn Connect>, Error> {
    secured(place, &TlsConfig::default())
}

#[cfg(feature = "tls")]
fn secured(place: &str, said: &TlsConfig) -> Result<Arc<dyn Connect>, Error> {
    let mut tls = meshwork_client::TlsConfig::default();
    tls.ca_file.clone_from(&said.ca_file);
    tls.platform_roots = said.platform_roots;
    tls.cert_file.clone_from(&said.cert_file);
    tls.key_file.clone_from(&said.key_file);
    tls.server_name.clone_from(&said.server_name);
    Ok(Arc::new(meshwork_client::TlsConnect::new(place, tls)?))
}

#[cfg(not(feature = "tls"))]
fn secured(place: &str, _: &TlsConfig) -> Result<Arc<dyn Connect>, Error> {
    let text =
        format!("this build has no TLS for {place}; add the feature: cargo add meshwork --features tls");
    Err(Error::new(meshwork_core::ErrorKind::Unsupported, text))
}

#[cfg(test)]
mod tests;
