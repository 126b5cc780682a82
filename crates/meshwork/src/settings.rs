//! From the configuration's words to the settings of server and client.

use meshwork_config::Config;
use meshwork_server::ServerConfig;

mod client;

pub(crate) use client::{Callee, client, connect, is_live};

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
