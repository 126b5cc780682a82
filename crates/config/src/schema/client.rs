//! `[client.<service>]` and `[client.default]`: how other services are called.

use super::{
    balance::{self, Balance},
    limit::LimitConfig,
    method::{MethodConfig, attempts},
    review::{Review, Reviewed},
    subset::{self, SubsetConfig},
};
use crate::duration;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    num::{NonZeroU16, NonZeroU32},
    path::PathBuf,
    time::Duration,
};

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
    /// The header whose value is the key of a call, for `ring-hash` and the shares of subsets. Default: none; then
    /// only calls that are given a key in code have one.
    pub hash_header: Option<String>,
    /// `ring-hash`: how many times the mean number of calls in flight an instance may have, 1.05 to 1000.0.
    /// Default: 1.25.
    pub hash_bound: f64,
    /// `least-request`: of how many drawn instances the best is taken, 2 to 16. Default: 2.
    pub choices: u8,
    /// Whether calls stay in our own zone as far as it can carry them. Default: none, where `service.zone` is set
    /// and the instances of our own service can be found, so that it is known how the callers are spread; true =
    /// also where that is not known.
    pub zone_aware: Option<bool>,
    /// How many times the mean load an instance may get for the sake of staying in the zone, 1.0 to 1000.0.
    /// Default: 1.05.
    pub zone_skew: f64,
    /// Parts of the service that calls are sent to by rule, by name: a call goes to the subset that its lane names,
    /// else by the shares, in the order of the names. Default: none.
    pub subsets: BTreeMap<String, SubsetConfig>,
    /// How many instances are connected to, for large fleets. Default: none, all.
    pub aperture: Option<NonZeroU32>,
    /// How many calls may run at a time and begin per second. Default: as many as come.
    pub limit: LimitConfig,
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
            hash_header: None,
            hash_bound: 1.25,
            choices: 2,
            zone_aware: None,
            zone_skew: 1.05,
            subsets: BTreeMap::new(),
            aperture: None,
            limit: LimitConfig::default(),
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
        attempts(review, "retry.attempts", self.retry.attempts);
        review.within("retry.budget", self.retry.budget, 0.0..=1.0);
        balance::header(review, "hash_header", self.hash_header.as_deref());
        review.within("hash_bound", self.hash_bound, 1.05..=1000.0);
        review.within("choices", self.choices, 2..=16);
        review.within("zone_skew", self.zone_skew, 1.0..=1000.0);
        subset::review(&self.subsets, review);
        for (method, config) in &self.methods {
            config.review(method, review);
        }
    }
}
