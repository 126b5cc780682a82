//! What can be set on a server.

use std::time::Duration;

use meshwork_resilience::{
    chance,
    shed::{AdaptivePolicy, Shares},
};

use crate::Network;

/// The limits and time-outs of a [`Server`](crate::Server). The defaults run.
///
/// ```
/// # use meshwork_server::ServerConfig;
/// let mut config = ServerConfig::default();
/// config.max_connections = 500;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Most connections open at a time; one more is closed as soon as it is accepted. Default 10 000.
    pub max_connections: usize,
    /// How long the head of a further request on an HTTP/1 connection may take. Default 10 s.
    pub header_read_timeout: Duration,
    /// How long a new connection may stay without its first whole request head (HTTP/1) or its preface and
    /// settings (HTTP/2), a handshake of TLS included. Default 10 s.
    pub first_request_timeout: Duration,
    /// How long an HTTP/1 connection may stay idle between two requests. Default 75 s.
    pub idle_timeout: Duration,
    /// How long nothing of an HTTP request's body may come while its handler waits for it; the handler's read
    /// then fails. Streams of gRPC may be silent. Default 30 s.
    pub body_idle_timeout: Duration,
    /// Most bytes of one request head, 8 KiB at least; a larger one is answered with 431. Default 64 KiB.
    pub max_header_bytes: u32,
    /// Most HTTP/2 streams open on one connection. Default 1 024.
    pub max_concurrent_streams: u32,
    /// Most requests of one connection that may be cancelled within a second before they are answered; one more
    /// closes the connection. Each costs a handler its start, and its caller next to nothing (CVE-2023-44487).
    /// Default 4 096.
    pub max_cancelled_requests: u32,
    /// Most bytes of one HTTP request body; a larger one is answered with 413. gRPC messages have tonic's
    /// own limit. Default none.
    pub max_body_bytes: Option<u64>,
    /// The longest deadline a caller can give; a longer one is cut to it. Default 60 s.
    pub max_deadline: Duration,
    /// The deadline of a request that brings none. Default none, so that streams may live.
    pub default_deadline: Option<Duration>,
    /// How old a connection may become, give or take a tenth, so that those opened together do not end
    /// together. Then HTTP/2 says goodbye and HTTP/1 closes after its next answer; nothing in flight is cut.
    /// Default none.
    pub max_connection_age: Option<Duration>,
    /// How old a stream may become, give or take a tenth: an answer in gRPC then ends with UNAVAILABLE between two
    /// messages, a call whose caller still sends ends with the same instead of an answer, server-sent events just
    /// end. Callers read `meshwork-ended: age` beside the status. The connection stays. Default none.
    pub max_stream_age: Option<Duration>,
    /// How often a silent HTTP/2 connection is pinged. Default 20 s.
    pub keep_alive_interval: Duration,
    /// How long the answer to a ping may take until the connection is closed. Default 20 s.
    pub keep_alive_timeout: Duration,
    /// Whether callers are strangers: their `meshwork-*` headers are taken away before anything reads
    /// them, except the address check of `meshwork-to`. Default false.
    pub edge: bool,
    /// Most requests inside at a time, streams included, each until the end of its answer; one more is refused
    /// as overloaded, whatever its priority. At least 1. Health and confirmations do not count. Default none.
    pub max_concurrent_requests: Option<u32>,
    /// Finds by latency how many requests may be inside, and refuses the others by priority. Default none.
    pub shed: Option<ShedPolicy>,
    /// From where priority `critical` is accepted; from elsewhere it becomes `normal`. Default nowhere.
    pub critical_from: Vec<Network>,
    /// From whom priority `critical` is accepted besides: SPIFFE ids or DNS names that a peer's certificate
    /// proves. Default nobody.
    pub critical_identities: Vec<String>,
}

/// How a server refuses what is too much for it, judged by its own latency and queue, never by the CPU of the host.
///
/// A request refused is answered at once with 503, in gRPC with RESOURCE_EXHAUSTED, as `meshwork-refused:
/// overloaded` and with the time to wait before another attempt. Streams leave with their first message, and a
/// handler that waits on purpose leaves through its [`Place`](crate::Place): how long they last says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ShedPolicy {
    /// Where the limit begins and ends, and how often it moves.
    pub adaptive: AdaptivePolicy,
    /// Who comes first.
    pub shares: Shares,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            header_read_timeout: Duration::from_secs(10),
            first_request_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_idle_timeout: Duration::from_secs(30),
            max_header_bytes: 64 * 1024,
            max_concurrent_streams: 1024,
            max_cancelled_requests: 4096,
            max_body_bytes: None,
            max_deadline: Duration::from_secs(60),
            default_deadline: None,
            max_connection_age: None,
            max_stream_age: None,
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(20),
            edge: false,
            max_concurrent_requests: None,
            shed: None,
            critical_from: Vec::new(),
            critical_identities: Vec::new(),
        }
    }
}

/// An age, give or take a tenth.
pub(crate) fn about(age: Duration) -> Duration {
    age.mul_f64(0.9 + 0.2 * chance::unit(chance::bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_differ_by_a_tenth_at_most() {
        let ages: Vec<_> = (0..1000).map(|_| about(Duration::from_secs(100)).as_secs_f64()).collect();
        assert!(ages.iter().all(|age| (90.0..=110.0).contains(age)));
        assert!(ages.iter().any(|age| *age < 95.0) && ages.iter().any(|age| *age > 105.0));
    }
}
