//! How a service is called: what `[client.<service>]` says, as values.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use http::HeaderName;
use meshwork_balance::{P2c, Policy, Subset, Subsetting};
use meshwork_core::{AddressRules, InstanceId, Scheme, Watch};
use meshwork_resilience::{Budget, deadline::Limit};

use crate::{Connect, LimitConfig, MethodConfig, TcpConnect};

/// How a service is called. Every field has a default that works.
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// The longest time until the head of the answer is there, all attempts included. `None` = only the
    /// caller's own deadline. Default 10 s, which yields to whatever the caller chose.
    ///
    /// It does not cut calls whose request is a stream, nor bodies of answers: those obey explicit limits
    /// (an inherited deadline, `grpc-timeout`, an option, a method's timeout), which span the whole call.
    pub timeout: Option<Limit>,
    /// The longest time of one attempt until the head of its answer. Default `None`: what is left of the call.
    pub attempt_timeout: Option<Limit>,
    /// The longest time to open and confirm one connection. Default 1 s.
    pub connect_timeout: Duration,
    /// After how long a silence a native instance is asked for a sign of life, 200 ms and up. Default 10 s.
    pub ping_interval: Duration,
    /// How long the sign of life may take until the connection is given up. Default 3 s.
    pub ping_timeout: Duration,
    /// When a failed call is tried again.
    pub retry: RetryConfig,
    /// Whether a second attempt follows on another node, without waiting for the first to fail, when a call takes
    /// half as long again as p95 of its method: the first answer wins, the other attempt is cancelled. Only for
    /// idempotent calls with a body of at most 64 KiB, at most 2 % of them (and 5 per second besides), within the
    /// budget of retries. Default `false`.
    pub hedge: bool,
    /// How an instance is chosen. Default [`P2c`]. Zones and subsets divide the instances first; then it chooses
    /// among those of one part.
    pub policy: Arc<dyn Policy>,
    /// The header whose value is the key of a call: calls of one key meet one instance where the policy knows how
    /// ([`RingHash`](meshwork_balance::RingHash)), and stay on one side of a subset's share. A hash given as an
    /// option wins. Default `None`.
    pub hash_header: Option<HeaderName>,
    /// The parts of the service that calls are sent to by rule. A call asks for a subset by its lane; calls of no
    /// lane, or of one that is no subset here, go by the shares. Default: none.
    pub subsets: Vec<Subset>,
    /// Whether the own zone comes first.
    pub zones: ZoneConfig,
    /// How many instances are connected to, 1 and up: for large fleets. A ring aperture where the process knows its
    /// rank ([`Local::peers`]), else a choice by rendezvous. Pinned calls reach only those that were chosen. Default
    /// `None`: all.
    pub aperture: Option<usize>,
    /// Another way to choose the instances that are connected to; `aperture` is not asked then. Default `None`.
    pub subsetting: Option<Arc<dyn Subsetting>>,
    /// How many calls may run at a time and begin per second. Default: as many as come.
    pub limit: LimitConfig,
    /// The only scheme to use. Default `None`: `grpc` for gRPC calls, `http` for others, and whichever is
    /// offered when it is only one.
    pub scheme: Option<Scheme>,
    /// What holds for single methods, by `package.Service/Method`.
    pub methods: HashMap<String, MethodConfig>,
    /// Which addresses may be called; asked for records and again at connect.
    pub addresses: AddressRules,
    /// What the process knows of itself.
    pub local: Local,
    /// How connections are opened. Default: plain TCP.
    pub connect: Arc<dyn Connect>,
    /// The most calls that may wait for a connection or a free stream, 1 and up; the next one fails as
    /// [`Overloaded`](crate::CallErrorKind::Overloaded). Default 1024.
    pub max_waiting: usize,
    /// The most HTTP/2 connections per node, 1 and up: another is opened when the peer's limit of streams is
    /// reached on those there are, and closed once it was idle for `spare_idle`. Default 4.
    pub max_connections: usize,
    /// How long a connection beside the first one is kept without a call. Default 10 s.
    pub spare_idle: Duration,
    /// How long a connection is used until it is replaced, ± 10 % so that not all are at once; calls do not
    /// notice, and streams open on the old one finish. Default `None`: for ever.
    pub max_age: Option<Duration>,
    /// The most connections per foreign HTTP/1.1 endpoint, 1 and up. Default 64.
    pub max_http1_connections: usize,
    /// After how long without any call the channel closes its connections, ± 10 %; the next call opens them
    /// again, as the first one did. Default 30 min; `None` = never.
    pub idle: Option<Duration>,
    /// The longest time an HTTP/1.1 connection is kept without a call. Default 4 s, because many servers close
    /// theirs after 5 s without a word about it; the peer's `keep-alive: timeout` less one second when that is
    /// shorter.
    pub http1_idle: Duration,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            timeout: Some(Limit::fallback(Duration::from_secs(10), "the default of [client.*] timeout")),
            attempt_timeout: None,
            connect_timeout: Duration::from_secs(1),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(3),
            retry: RetryConfig::default(),
            hedge: false,
            policy: Arc::new(P2c::default()),
            hash_header: None,
            subsets: Vec::new(),
            zones: ZoneConfig::default(),
            aperture: None,
            subsetting: None,
            limit: LimitConfig::default(),
            scheme: None,
            methods: HashMap::new(),
            addresses: AddressRules::default(),
            local: Local::default(),
            connect: Arc::new(TcpConnect::new()),
            max_waiting: 1024,
            max_connections: 4,
            spare_idle: Duration::from_secs(10),
            max_age: None,
            max_http1_connections: 64,
            idle: Some(Duration::from_secs(30 * 60)),
            http1_idle: Duration::from_secs(4),
        }
    }
}

impl fmt::Debug for ClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientConfig")
            .field("timeout", &self.timeout)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("retry", &self.retry)
            .field("hedge", &self.hedge)
            .field("hash_header", &self.hash_header)
            .field("subsets", &self.subsets)
            .field("zones", &self.zones)
            .field("aperture", &self.aperture)
            .field("limit", &self.limit)
            .field("scheme", &self.scheme)
            .field("methods", &self.methods)
            .field("addresses", &self.addresses)
            .field("local", &self.local)
            .finish_non_exhaustive()
    }
}

/// When a failed call is tried again. Only idempotent calls ever are.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryConfig {
    /// Attempts of a call, the first included, 1 to 5 (more counts as 5); 1 = no retry. Default 2.
    pub attempts: u8,
    /// Retries per call over any second, 0.0 to 1.0. Default 0.2.
    pub budget: f64,
    /// Retries per second that are allowed besides, so that rare calls can be retried. Default 10.
    pub min_per_second: u32,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { attempts: 2, budget: Budget::RATIO, min_per_second: Budget::MINIMUM }
    }
}

/// Whether calls stay in the caller's zone as far as it can carry them
/// ([`ZoneAware`](meshwork_balance::ZoneAware)).
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ZoneConfig {
    /// `None`, the default: where the own zone is known and so is how the callers are spread over the zones
    /// ([`Local::peers`]). `true`: also where only the zone is known; each zone is taken to call as much as another
    /// then. `false`: never. Without a known zone of its own no client looks at zones.
    pub aware: Option<bool>,
    /// How many times the mean load an instance may get for the sake of staying in the zone, 1.0 to 1000.0; what
    /// is more spills over to the zones that have room. Default 1.05.
    pub max_skew: f64,
}

impl Default for ZoneConfig {
    fn default() -> Self {
        Self { aware: None, max_skew: 1.05 }
    }
}

/// What the calling process knows of itself; all of it optional.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Local {
    /// Its own region; empty when unknown.
    pub region: Arc<str>,
    /// Its own zone; empty when unknown.
    pub zone: Arc<str>,
    /// Its own instance, when it is one.
    pub instance: Option<InstanceId>,
    /// The instances of its own service: how its callers are spread over the zones, and, when `instance` is among
    /// them, which of how many clients it is. Followed while the channel lives. Default `None`.
    pub peers: Option<Watch>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_those_documented() {
        let config = ClientConfig::default();
        assert_eq!(config.timeout.as_ref().map(Limit::duration), Some(Duration::from_secs(10)));
        assert_eq!(config.connect_timeout, Duration::from_secs(1));
        assert_eq!((config.retry.attempts, config.retry.min_per_second), (2, 10));
        assert!(config.attempt_timeout.is_none() && config.scheme.is_none() && !config.hedge);
    }
}
