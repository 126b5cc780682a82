//! From the configuration's words to the settings of server and client.

use std::num::NonZeroU32;

use meshwork_config::{Config, ConfigError, ShedConfig};
use meshwork_core::ErrorChain;
use meshwork_server::{ServerConfig, ShedPolicy};

mod client;

pub(crate) use client::{Callee, client, connect, is_live, secure_connect};

/// `[server]` and what of `[service]` concerns the server.
///
/// # Errors
/// A network that is none.
pub(crate) fn server(config: &Config) -> Result<ServerConfig, ConfigError> {
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
    server.idle_timeout = said.idle_timeout;
    server.body_idle_timeout = said.body_idle_timeout;
    server.max_connection_age = said.max_connection_age;
    server.max_stream_age = said.max_stream_age;
    server.max_cancelled_requests = said.max_cancelled_requests.get();
    server.max_concurrent_requests = said.max_concurrent_requests.map(NonZeroU32::get);
    server.shed = said.shed.enabled.then(|| shed(&said.shed));
    let networks = said.critical_from.iter().map(|text| text.parse());
    server.critical_from = networks
        .collect::<Result<_, _>>()
        .map_err(|error| config.error("server.critical_from", ErrorChain(&error).to_string()))?;
    server.critical_identities.clone_from(&said.critical_identities);
    server.edge = config.service().edge;
    Ok(server)
}

fn shed(said: &ShedConfig) -> ShedPolicy {
    let mut policy = ShedPolicy::default();
    let adaptive = &mut policy.adaptive;
    (adaptive.initial, adaptive.least, adaptive.most) = (said.initial, said.least, said.most);
    (adaptive.window, adaptive.look) = (said.window, said.look);
    let shares = &mut policy.shares;
    (shares.critical, shares.critical_least) = (said.critical_share, said.critical_least);
    shares.normal = said.reserved_share;
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shedding_by_the_configuration_is_shedding_by_default() {
        assert_eq!(shed(&ShedConfig::default()), ShedPolicy::default());
    }
}
