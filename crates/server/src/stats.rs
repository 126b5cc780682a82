//! The counters of a server.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use meshwork_resilience::shed::ShedStats;

use crate::{open::Open, shared::Shared};

/// Reads the counters of a server; nothing is computed before somebody asks. Clones read the same server.
#[derive(Clone, Debug)]
pub struct Stats {
    shared: Arc<Shared>,
    open: Arc<Open>,
}

impl Stats {
    pub(crate) fn new(shared: Arc<Shared>, open: Arc<Open>) -> Self {
        Self { shared, open }
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.shared.counters.open.load(Relaxed)
    }

    /// Connections accepted so far.
    pub fn connections_total(&self) -> u64 {
        self.shared.counters.accepted.load(Relaxed)
    }

    /// Connections closed at once because `max_connections` were open.
    pub fn connections_over_limit_total(&self) -> u64 {
        self.shared.counters.over_limit.load(Relaxed)
    }

    /// Connections closed because their first request, a request head or any request was too late.
    pub fn connections_timed_out_total(&self) -> u64 {
        self.shared.counters.timed_out.load(Relaxed)
    }

    /// Handshakes of TLS that failed; those that took too long count among the connections that timed out.
    pub fn handshakes_failed_total(&self) -> u64 {
        self.shared.counters.handshakes_failed.load(Relaxed)
    }

    /// Failures to accept a connection, such as too many open files.
    pub fn accept_errors_total(&self) -> u64 {
        self.shared.counters.accept_errors.load(Relaxed)
    }

    /// Requests in flight now, until the end of their answers.
    pub fn requests_in_flight(&self) -> usize {
        self.open.requests().0
    }

    /// Requests begun so far, those of health and of confirmations included.
    pub fn requests_total(&self) -> u64 {
        self.open.requests().1 + self.shared.counters.closed_requests.load(Relaxed)
    }

    /// Work that handlers have detached and that runs now.
    pub fn detached(&self) -> usize {
        self.shared.counters.detached.load(Relaxed)
    }

    /// Connections closed because they cancelled thousands of requests a second.
    pub fn connections_wasted_total(&self) -> u64 {
        self.shared.counters.wasted.load(Relaxed)
    }

    /// Connections told to end because they had reached `max_connection_age`.
    pub fn connections_aged_total(&self) -> u64 {
        self.shared.counters.connections_aged.load(Relaxed)
    }

    /// Streams ended because they had reached `max_stream_age`.
    pub fn streams_aged_total(&self) -> u64 {
        self.shared.counters.streams_aged.load(Relaxed)
    }

    /// Handlers, bodies and detached works that panicked.
    pub fn panics_total(&self) -> u64 {
        self.shared.counters.panics.load(Relaxed)
    }

    /// Requests ended because their deadline passed.
    pub fn deadlines_exceeded_total(&self) -> u64 {
        self.shared.counters.deadlines.load(Relaxed)
    }

    /// Requests refused because the server drains.
    pub fn refused_draining_total(&self) -> u64 {
        self.shared.counters.draining.load(Relaxed)
    }

    /// Requests refused because too many were inside.
    pub fn refused_overloaded_total(&self) -> u64 {
        self.shared.places.refused()
    }

    /// The adaptive limit and whom it refused, where [`ServerConfig::shed`](crate::ServerConfig::shed) is set.
    pub fn shed(&self) -> Option<ShedStats> {
        self.shared.places.shed()
    }

    /// Requests refused because they were meant for another instance.
    pub fn refused_misdirected_total(&self) -> u64 {
        self.shared.counters.misdirected.load(Relaxed)
    }
}
