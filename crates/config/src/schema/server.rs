//! `[server]`: the limits of the listeners.

use super::{
    review::{Review, Reviewed},
    shed::ShedConfig,
};
use crate::duration;
use serde::Deserialize;
use std::{num::NonZeroU32, time::Duration};

/// What the HTTP/1 parser needs at least, and what a peer may make us hold at most, in bytes.
const HEADERS_BYTES: std::ops::RangeInclusive<u32> = 8192..=16 * 1024 * 1024;

/// `[server]`: limits and time-outs of everything that listens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Connections open at once, 1 or more; more wait in the kernel's queue. Default: 10 000.
    pub max_connections: NonZeroU32,
    /// Longest time for the head of an HTTP/1 request, from its first byte. Default: 10s.
    #[serde(with = "duration")]
    pub header_read_timeout: Duration,
    /// Longest time from accept to the first request; silent connections are closed then. Default: 10s.
    #[serde(with = "duration")]
    pub first_request_timeout: Duration,
    /// Largest head of a request in bytes, 8192 to 16 MiB. Default: 65536.
    pub max_headers_bytes: u32,
    /// Streams open at once on one HTTP/2 connection, 1 or more. Default: 1024.
    pub max_concurrent_streams: NonZeroU32,
    /// Largest body of a request in bytes. Default: none, the handler decides.
    pub max_body_bytes: Option<u64>,
    /// Longest deadline a caller can ask for; longer ones are cut to it. Default: 60s.
    #[serde(with = "duration")]
    pub max_deadline: Duration,
    /// Deadline of a request that brings none, up to `max_deadline`. Default: none.
    #[serde(with = "duration::option")]
    pub default_deadline: Option<Duration>,
    /// Silence on an HTTP/2 connection before we ping it; 0s = never. Default: 20s.
    #[serde(with = "duration")]
    pub keep_alive_interval: Duration,
    /// How long a ping may stay unanswered before its connection is closed. Default: 20s.
    #[serde(with = "duration")]
    pub keep_alive_timeout: Duration,
    /// How long an HTTP/1 connection may stay idle between two requests. Default: 75s.
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    /// How long nothing of an HTTP request's body may come while its handler waits for it. Default: 30s.
    #[serde(with = "duration")]
    pub body_idle_timeout: Duration,
    /// How old a connection may become, give or take a tenth; nothing in flight is cut. Default: none.
    #[serde(with = "duration::option")]
    pub max_connection_age: Option<Duration>,
    /// How old a stream may become, an answer or a call whose caller still sends, give or take a tenth; its connection stays. Default: none.
    #[serde(with = "duration::option")]
    pub max_stream_age: Option<Duration>,
    /// Requests of one connection that may be cancelled within a second, 1 or more; one more closes it. Default: 4096.
    pub max_cancelled_requests: NonZeroU32,
    /// Requests inside at a time, streams included, 1 or more; one more is refused as overloaded. Default: none.
    pub max_concurrent_requests: Option<NonZeroU32>,
    /// Finds by latency how many requests may be inside, and refuses the others by priority. Default: off.
    pub shed: ShedConfig,
    /// Networks whose callers may say priority `critical`, `10.0.0.0/8`; from elsewhere it becomes `normal`. Default: none.
    pub critical_from: Vec<String>,
    /// SPIFFE ids or DNS names in callers' certificates that may say priority `critical` besides. Default: none.
    pub critical_identities: Vec<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        const fn count(n: u32) -> NonZeroU32 {
            NonZeroU32::new(n).expect("invariant: the default counts are not zero")
        }
        Self {
            max_connections: const { count(10_000) },
            header_read_timeout: Duration::from_secs(10),
            first_request_timeout: Duration::from_secs(10),
            max_headers_bytes: 64 * 1024,
            max_concurrent_streams: const { count(1024) },
            max_body_bytes: None,
            max_deadline: Duration::from_secs(60),
            default_deadline: None,
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(75),
            body_idle_timeout: Duration::from_secs(30),
            max_connection_age: None,
            max_stream_age: None,
            max_cancelled_requests: const { count(4096) },
            max_concurrent_requests: None,
            shed: ShedConfig::default(),
            critical_from: Vec::new(),
            critical_identities: Vec::new(),
        }
    }
}

impl Reviewed for ServerConfig {
    fn review(&self, review: &mut Review<'_>) {
        review.positive("header_read_timeout", Some(self.header_read_timeout));
        review.positive("first_request_timeout", Some(self.first_request_timeout));
        review.positive("max_deadline", Some(self.max_deadline));
        review.positive("default_deadline", self.default_deadline);
        review.positive("keep_alive_timeout", Some(self.keep_alive_timeout));
        review.positive("idle_timeout", Some(self.idle_timeout));
        review.positive("body_idle_timeout", Some(self.body_idle_timeout));
        review.positive("max_connection_age", self.max_connection_age);
        review.positive("max_stream_age", self.max_stream_age);
        self.shed.review(review);
        review.require(HEADERS_BYTES.contains(&self.max_headers_bytes), "max_headers_bytes", || {
            format!(
                "{} is not within {} to {}",
                self.max_headers_bytes,
                HEADERS_BYTES.start(),
                HEADERS_BYTES.end()
            )
        });
        review.require(
            self.default_deadline.is_none_or(|d| d <= self.max_deadline),
            "default_deadline",
            || {
                format!(
                    "longer than `server.max_deadline` ({})",
                    humantime::format_duration(self.max_deadline)
                )
            },
        );
    }
}
