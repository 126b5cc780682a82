//! From the configuration's words to the settings of server and client.

use std::sync::Arc;

use meshwork_client::{ClientConfig, Connect, Limit, MethodConfig, balance};
use meshwork_config::{Balance, Config, Origin, TlsConfig};
use meshwork_core::{Error, Scheme};
use meshwork_server::ServerConfig;

/// `[server]` and what of `[service]` concerns the server.
pub(crate) fn server(config: &Config) -> ServerConfig {
    let said = config.server();
    let mut server = ServerConfig::default();
    server.max_connections = said.max_connections.get() as usize;
    server.header_read_timeout = said.header_read_timeout;
    server.first_request_timeout = said.first_request_timeout;
    server.max_header_bytes = said.max_headers_bytes;
    server.max_concurrent_streams = said.max_concurrent_streams.get();
    server.max_body_bytes = said.max_body_bytes;
    server.max_deadline = said.max_deadline;
    server.default_deadline = said.default_deadline;
    server.keep_alive_interval = said.keep_alive_interval;
    server.keep_alive_timeout = said.keep_alive_timeout;
    server.edge = config.service().edge;
    server
}

/// `[client.<service>]`, with the place where each time limit was set.
///
/// # Errors
/// `Invalid` when its TLS cannot work, `Unsupported` when this build has none.
pub(crate) fn client(config: &Config, service: &str) -> Result<ClientConfig, Error> {
    let said = config.client(service);
    let limit = |key: &str, duration| {
        let key = format!("client.{service}.{key}");
        match config.origin(&key) {
            Origin::Default => Limit::fallback(duration, format!("the default of `{key}`")),
            origin => Limit::new(duration, format!("`{key}` ({origin})")),
        }
    };
    let mut client = ClientConfig::default();
    client.timeout = (!said.timeout.is_zero()).then(|| limit("timeout", said.timeout));
    client.attempt_timeout = said.attempt_timeout.map(|duration| limit("attempt_timeout", duration));
    client.connect_timeout = said.connect_timeout;
    client.policy = policy(said.balance);
    client.hedge = said.hedge;
    client.max_connections = said.max_connections.get().into();
    client.max_age = said.max_age;
    client.idle = (!said.idle.is_zero()).then_some(said.idle);
    if let Some(tls) = &said.tls {
        client.connect = connect(&format!("`[client.{service}.tls]`"), tls)?;
    }
    client.retry.attempts = said.retry.attempts;
    client.retry.budget = said.retry.budget;
    client.scheme = said.scheme.and_then(|scheme| scheme.as_str().parse::<Scheme>().ok());
    client.methods = said
        .methods
        .iter()
        .map(|(name, method)| {
            let timeout = method.timeout.map(|d| limit(&format!("methods.\"{name}\".timeout"), d));
            let mut made = MethodConfig::new(timeout, method.idempotent);
            made.hedge = method.hedge;
            (name.clone(), made)
        })
        .collect();
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

fn policy(balance: Balance) -> Arc<dyn balance::Policy> {
    match balance {
        Balance::RoundRobin => Arc::new(balance::RoundRobin::default()),
        Balance::WeightedRoundRobin => Arc::new(balance::WeightedRoundRobin::default()),
        Balance::LeastRequest => Arc::new(balance::LeastRequest::default()),
        Balance::RingHash => Arc::new(balance::RingHash::default()),
        Balance::First => Arc::new(balance::First::default()),
        // `p2c`, and what a newer configuration may know.
        _ => Arc::new(balance::P2c::default()),
    }
}

#[cfg(feature = "tls")]
fn connect(place: &str, said: &TlsConfig) -> Result<Arc<dyn Connect>, Error> {
    let mut tls = meshwork_client::TlsConfig::default();
    tls.ca_file.clone_from(&said.ca_file);
    tls.platform_roots = said.platform_roots;
    tls.cert_file.clone_from(&said.cert_file);
    tls.key_file.clone_from(&said.key_file);
    tls.server_name.clone_from(&said.server_name);
    Ok(Arc::new(meshwork_client::TlsConnect::new(place, tls)?))
}

#[cfg(not(feature = "tls"))]
fn connect(place: &str, _: &TlsConfig) -> Result<Arc<dyn Connect>, Error> {
    let text =
        format!("this build has no TLS for {place}; add the feature: cargo add meshwork --features tls");
    Err(Error::new(meshwork_core::ErrorKind::Unsupported, text))
}
