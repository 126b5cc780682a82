//! `[client.<service>]` and `[client.default]`: how other services are called.

use super::review::{Review, Reviewed};
use crate::{duration, layers::End};
use serde::Deserialize;
use std::{collections::BTreeMap, num::NonZeroU16, path::PathBuf, time::Duration};

/// Attempts of one call, the first included.
const ATTEMPTS: std::ops::RangeInclusive<u8> = 1..=5;

/// `[client.<service>]`: what holds for calls to one service; keys that are absent are taken from `[client.default]`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ClientConfig {
    /// Longest time of a call with all its attempts; 0s = no limit but the caller's deadline. Default: 10s.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Longest time of one attempt. Default: none, the time that is left.
    #[serde(with = "duration::option")]
    pub attempt_timeout: Option<Duration>,
    /// Longest time to open one connection. Default: 1s.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// How an instance is chosen. Default: `p2c`.
    pub balance: Balance,
    /// When a failed call is tried again.
    pub retry: RetryConfig,
    /// True if the application must not start serving before this service's first instances are known. Default: false.
    pub eager: bool,
    /// True if slow idempotent calls get a second attempt on another instance. Default: false.
    pub hedge: bool,
    /// Most HTTP/2 connections to one instance, opened as its streams run out. Default: 4.
    pub max_connections: NonZeroU16,
    /// How long a connection is used until it is replaced, ± 10 %. Default: none, for ever.
    #[serde(with = "duration::option")]
    pub max_age: Option<Duration>,
    /// After how long without a call the connections are closed; 0s = never. Default: 30m.
    #[serde(with = "duration")]
    pub idle: Duration,
    /// TLS towards the instances. Default: none; `https` and `grpcs` endpoints cannot be called then.
    pub tls: Option<TlsConfig>,
    /// Which endpoints of the instances are used. Default: none, by the content type of the request.
    pub scheme: Option<Scheme>,
    /// What holds for single methods, by `package.Service/Method`. Default: none.
    pub methods: BTreeMap<String, MethodConfig>,
}

/// `[client.<service>.tls]`. The files are read again when they have changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TlsConfig {
    /// PEM certificates that sign those of the instances. Default: none; then the machine's are trusted.
    pub ca_file: Option<PathBuf>,
    /// True if the machine's certificates are trusted beside `ca_file`. Default: false.
    pub platform_roots: bool,
    /// PEM certificate, with its chain, that we show. Default: none.
    pub cert_file: Option<PathBuf>,
    /// PEM key of `cert_file`. Default: none.
    pub key_file: Option<PathBuf>,
    /// The name that the certificates of the instances must have. Default: the host of the endpoint.
    pub server_name: Option<String>,
}

/// `retry = { .. }` of a client.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetryConfig {
    /// Attempts of an idempotent call, the first included, 1 to 5; 1 = no retry. Default: 2.
    pub attempts: u8,
    /// Retries per call on average, 0.0 to 1.0. Default: 0.2.
    pub budget: f64,
}

/// `methods."package.Service/Method"` of a client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct MethodConfig {
    /// Longest time of a call of this method. Default: none, the client's.
    #[serde(with = "duration::option")]
    pub timeout: Option<Duration>,
    /// True if the method may run twice, so that it may be tried again. Default: false.
    pub idempotent: bool,
    /// Whether slow calls of this method get a second attempt. Default: none, as the client's.
    pub hedge: Option<bool>,
}

/// A way to choose an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Balance {
    /// The better of two random ones, by latency and calls in flight.
    #[default]
    P2c,
    /// One after the other.
    RoundRobin,
    /// One after the other, as often as their weights say.
    WeightedRoundRobin,
    /// The one of two random ones with fewer calls in flight.
    LeastRequest,
    /// By the call's hash, with bounded load; calls without a hash go by chance.
    RingHash,
    /// The first that is connected, in the order of their ids.
    First,
}

/// The scheme of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Scheme {
    /// HTTP/1.1 or HTTP/2 without TLS.
    Http,
    /// HTTP/1.1 or HTTP/2 with TLS.
    Https,
    /// gRPC without TLS.
    Grpc,
    /// gRPC with TLS.
    Grpcs,
}

// === impl Scheme ===

impl Scheme {
    /// The word as endpoints begin with it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
        }
    }
}

// === impl ClientConfig ===

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            attempt_timeout: None,
            connect_timeout: Duration::from_secs(1),
            balance: Balance::default(),
            retry: RetryConfig::default(),
            eager: false,
            hedge: false,
            max_connections: NonZeroU16::new(4).expect("invariant: 4 is not 0"),
            max_age: None,
            idle: Duration::from_secs(30 * 60),
            tls: None,
            scheme: None,
            methods: BTreeMap::new(),
        }
    }
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { attempts: 2, budget: 0.2 }
    }
}

impl Reviewed for ClientConfig {
    fn review(&self, review: &mut Review<'_>) {
        review.positive("attempt_timeout", self.attempt_timeout);
        review.positive("connect_timeout", Some(self.connect_timeout));
        review.positive("max_age", self.max_age);
        if let Some(tls) = &self.tls {
            let (set, missing) = match (&tls.cert_file, &tls.key_file) {
                (Some(_), None) => ("tls.cert_file", "key_file"),
                (None, Some(_)) => ("tls.key_file", "cert_file"),
                _ => ("", ""),
            };
            review.require(set.is_empty(), set, || format!("TLS takes both files\nset `{missing}` too"));
        }
        review.require(ATTEMPTS.contains(&self.retry.attempts), "retry.attempts", || {
            format!("{} is not within {} to {}", self.retry.attempts, ATTEMPTS.start(), ATTEMPTS.end())
        });
        review.require((0.0..=1.0).contains(&self.retry.budget), "retry.budget", || {
            format!("{} is not within 0.0 to 1.0", self.retry.budget)
        });
        for (method, config) in &self.methods {
            let key = format!("methods.\"{method}\"");
            let parts: Vec<_> = method.split('/').collect();
            if parts.len() != 2 || parts.iter().any(|part| part.is_empty()) {
                let message = format!("`{method}` is no method\nwrite \"package.Service/Method\"");
                review.refuse(&key, End::Key, message);
            }
            review.positive(&format!("{key}.timeout"), config.timeout);
        }
    }
}
