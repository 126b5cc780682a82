//! What the nodes of one cluster know of each other.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::Now;

/// How often the median is computed anew.
const MEDIAN_EVERY: u64 = 100_000_000;

/// When a node is taken out for its failures, and for how long.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ejection {
    /// So many failures in a row eject, at most 65535. Default 5; 0 turns this rule off.
    pub consecutive_failures: u32,
    /// Fewer successes than this part of all calls of 10 s, or of their last three quarters, eject. Default 0.8; 0
    /// turns this rule off.
    pub success_rate: f32,
    /// A rate is judged by so many calls at least: where there were fewer, those missing count as successes. Default
    /// 20.
    pub calls_at_least: u32,
    /// How long the first ejection lasts, ± 20 %; each further one twice as long. Default 1 s.
    pub first: Duration,
    /// The longest ejection, ± 20 %. Default 8 s; up to 60 s for large fleets.
    pub longest: Duration,
    /// At most this part of the connected nodes is ejected at a time, but always one may be. Default 0.3.
    pub share_at_most: f32,
    /// When fewer than this part of the connected nodes is healthy, all are used. Default 0.5.
    pub panic_below: f32,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            success_rate: 0.8,
            calls_at_least: 20,
            first: Duration::from_secs(1),
            longest: Duration::from_secs(8),
            share_at_most: 0.3,
            panic_below: 0.5,
        }
    }
}

/// Shared by all nodes of one cluster: the counts that bound ejection, the median latency, the clock that a
/// dropped ticket reads.
pub struct Peers {
    ejection: Ejection,
    clock: Box<dyn Fn() -> Now + Send + Sync>,
    /// Connected, unhealthy and ejected nodes; the last two among the connected.
    connected: AtomicU32,
    unhealthy: AtomicU32,
    ejected: AtomicU32,
    /// In nanoseconds, as the bits of an `f64`; 0 = unknown.
    median: AtomicU64,
    median_due: AtomicU64,
    /// How many nodes the one who computed it last sees.
    median_of: AtomicU32,
}

impl Peers {
    /// For a new cluster, with the default [`Ejection`]. `clock` is read only when a ticket is dropped
    /// unfinished, and must have the epoch of every other [`Now`] given to this cluster.
    pub fn new(clock: impl Fn() -> Now + Send + Sync + 'static) -> Arc<Self> {
        Self::with_ejection(clock, Ejection::default())
    }

    /// The same with other rules of ejection.
    pub fn with_ejection(clock: impl Fn() -> Now + Send + Sync + 'static, ejection: Ejection) -> Arc<Self> {
        Arc::new(Self {
            ejection,
            clock: Box::new(clock),
            connected: AtomicU32::new(0),
            unhealthy: AtomicU32::new(0),
            ejected: AtomicU32::new(0),
            median: AtomicU64::new(0),
            median_due: AtomicU64::new(0),
            median_of: AtomicU32::new(0),
        })
    }

    /// How many nodes have a usable connection.
    pub fn connected(&self) -> u32 {
        self.connected.load(Relaxed)
    }

    /// How many connected nodes are ejected.
    pub fn ejected(&self) -> u32 {
        self.ejected.load(Relaxed)
    }

    /// How many connected nodes fail too often, ejected or not.
    pub fn unhealthy(&self) -> u32 {
        self.unhealthy.load(Relaxed)
    }

    /// The median of the nodes' mean latencies, as last computed by a picker.
    pub fn median(&self) -> Option<Duration> {
        self.median_nanos().map(|nanos| Duration::from_nanos(nanos as u64))
    }

    /// Whether ejection is suspended: too few connected nodes are healthy, or more are ejected than may be
    /// (because others lost their connections). Then all connected nodes are used.
    pub fn is_panicking(&self) -> bool {
        let unhealthy = self.unhealthy();
        if unhealthy == 0 {
            return false;
        }
        let connected = self.connected();
        let healthy = connected.saturating_sub(unhealthy);
        (healthy as f32) < connected as f32 * self.ejection.panic_below
            || self.ejected() > self.ejected_at_most(connected)
    }

    pub(crate) fn ejection(&self) -> &Ejection {
        &self.ejection
    }

    pub(crate) fn clock(&self) -> Now {
        (self.clock)()
    }

    pub(crate) fn median_nanos(&self) -> Option<f64> {
        match self.median.load(Relaxed) {
            0 => None,
            bits => Some(f64::from_bits(bits)),
        }
    }

    /// Whether the caller, who sees `of` nodes, has to compute the median now; says so to one caller each 100 ms.
    /// One who sees fewer than the last one did has to wait ten times as long: where a cluster is divided, the
    /// norm is that of its largest part.
    pub(crate) fn median_is_due(&self, now: Now, of: usize) -> bool {
        let due = self.median_due.load(Relaxed);
        if now.as_nanos() < due {
            return false;
        }
        let of = u32::try_from(of).unwrap_or(u32::MAX);
        if of < self.median_of.load(Relaxed) && now.as_nanos() < due.saturating_add(9 * MEDIAN_EVERY) {
            return false;
        }
        let next = now.as_nanos().saturating_add(MEDIAN_EVERY);
        let ours = self.median_due.compare_exchange(due, next, Relaxed, Relaxed).is_ok();
        if ours {
            self.median_of.store(of, Relaxed);
        }
        ours
    }

    pub(crate) fn set_median(&self, nanos: f64) {
        self.median.store(nanos.to_bits(), Relaxed);
    }

    /// Takes a place among the ejected, if one is free.
    pub(crate) fn reserve_ejection(&self) -> bool {
        let most = self.ejected_at_most(self.connected());
        self.ejected.fetch_update(Relaxed, Relaxed, |ejected| (ejected < most).then_some(ejected + 1)).is_ok()
    }

    pub(crate) fn count(&self, counter: Counter, up: bool) {
        let counter = match counter {
            Counter::Connected => &self.connected,
            Counter::Unhealthy => &self.unhealthy,
            Counter::Ejected => &self.ejected,
        };
        if up {
            counter.fetch_add(1, Relaxed);
        } else {
            counter.fetch_sub(1, Relaxed);
        }
    }

    fn ejected_at_most(&self, connected: u32) -> u32 {
        ((connected as f32 * self.ejection.share_at_most) as u32).max(1)
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers")
            .field("connected", &self.connected())
            .field("unhealthy", &self.unhealthy())
            .field("ejected", &self.ejected())
            .field("median", &self.median())
            .finish_non_exhaustive()
    }
}

/// Which count of [`Peers`] changes.
#[derive(Clone, Copy)]
pub(crate) enum Counter {
    Connected,
    Unhealthy,
    Ejected,
}
