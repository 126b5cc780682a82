//! From the configuration's words to the settings of server and client.

use meshwork_client::{ClientConfig, Limit, MethodConfig};
use meshwork_config::{Config, Origin};
use meshwork_core::Scheme;
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
pub(crate) fn client(config: &Config, service: &str) -> ClientConfig {
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
    client.retry.attempts = said.retry.attempts;
    client.retry.budget = said.retry.budget;
    client.scheme = said.scheme.and_then(|scheme| scheme.as_str().parse::<Scheme>().ok());
    client.methods = said
        .methods
        .iter()
        .map(|(name, method)| {
            let timeout = method.timeout.map(|d| limit(&format!("methods.\"{name}\".timeout"), d));
            (name.clone(), MethodConfig::new(timeout, method.idempotent))
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
    client
}
