//! One endpoint of one instance: its connection state and its statistics, as plain atomics.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{NodeKey, Now, Peers, latency::Latency, peers::Counter, window::Window};

/// How long a new node is spared, and the part of its share it gets at first.
const SLOW_START: Duration = Duration::from_secs(3);
const SLOW_START_FLOOR: f64 = 0.2;

pub(crate) const READY: u32 = 1;
pub(crate) const FULL: u32 = 1 << 1;
pub(crate) const UNHEALTHY: u32 = 1 << 2;
pub(crate) const EJECTED: u32 = 1 << 3;
pub(crate) const PROBED: u32 = 1 << 4;

/// When a node came into a cluster; decides its slow start.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Arrival {
    /// When this cluster first saw it.
    pub seen: Now,
    /// How long its process had been running by then, by its record; `None` when unknown or in the future.
    /// Longer than 3 s skips the slow start.
    pub running_for: Option<Duration>,
}

impl Arrival {
    /// First seen at `seen`, of unknown age.
    pub fn new(seen: Now) -> Self {
        Self { seen, running_for: None }
    }

    /// With the age of its process.
    pub fn running_for(mut self, age: Option<Duration>) -> Self {
        self.running_for = age;
        self
    }
}

/// One endpoint of one instance inside a cluster: connection state, statistics, ejection.
///
/// It outlives every change of the record but that of its endpoints. The client tells it about its connection;
/// [tickets](crate::Ticket) teach it how calls went; pickers read it. Nothing here blocks or allocates.
#[repr(C)]
pub struct Node {
    // What a pick reads comes first, together.
    pub(crate) state: AtomicU32,
    pub(crate) inflight: AtomicU32,
    capacity: AtomicU32,
    /// Failures in a row, saturating.
    pub(crate) consecutive: AtomicU16,
    /// How often the ejection has doubled.
    pub(crate) doublings: AtomicU16,
    pub(crate) latency: Latency,
    /// When the slow start began, in nanoseconds; 0 = there is none, or it is over.
    slow_from: AtomicU64,
    peers: Arc<Peers>,
    pub(crate) window: Window,
    /// When the ejection ends; afterwards, when the last one ended.
    pub(crate) ejected_until: AtomicU64,
    attachment: Arc<dyn Any + Send + Sync>,
    key: NodeKey,
    connects: AtomicU32,
    pub(crate) ejections: AtomicU32,
}

// With its key's allocation a node takes 256 bytes at most.
const _: () = assert!(size_of::<Node>() <= 168);

impl Node {
    /// A node without a connection. `attachment` is the client's own state for it, handed back by
    /// [`attachment`](Self::attachment), so that a picked member leads to its connection without a look-up.
    pub fn new(
        key: NodeKey,
        attachment: Arc<dyn Any + Send + Sync>,
        peers: &Arc<Peers>,
        arrival: Arrival,
    ) -> Arc<Self> {
        let settled = arrival.running_for.is_some_and(|age| age > SLOW_START);
        Arc::new(Self {
            state: AtomicU32::new(0),
            inflight: AtomicU32::new(0),
            capacity: AtomicU32::new(u32::MAX),
            consecutive: AtomicU16::new(0),
            doublings: AtomicU16::new(0),
            latency: Latency::default(),
            slow_from: AtomicU64::new(if settled { 0 } else { arrival.seen.as_nanos().max(1) }),
            peers: Arc::clone(peers),
            window: Window::default(),
            ejected_until: AtomicU64::new(0),
            attachment,
            key,
            connects: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
        })
    }

    /// Its identity.
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    /// The client's state for this node, if it is a `T`.
    pub fn attachment<T: Any>(&self) -> Option<&T> {
        self.attachment.downcast_ref()
    }

    /// The cluster's shared counts.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.peers
    }

    /// Says whether the node has a usable connection. Without one it is no candidate, is not counted as
    /// ejected, and does not count in any cap. A connection made anew ends an ejection and is judged by the
    /// median until it has answered; set `false` when the node leaves its cluster.
    pub fn set_ready(&self, ready: bool) {
        if !ready {
            self.shift(0, READY);
        } else if !self.is_ready() {
            self.consecutive.store(0, Relaxed);
            self.window.clear();
            self.latency.forgive(self.peers.median_nanos());
            self.connects.fetch_add(1, Relaxed);
            self.shift(READY, UNHEALTHY | EJECTED);
        }
    }

    /// Whether it has a usable connection.
    pub fn is_ready(&self) -> bool {
        self.state.load(Relaxed) & READY != 0
    }

    /// Says whether all its connections are full; a full node is no candidate.
    pub fn set_full(&self, full: bool) {
        if full {
            self.shift(FULL, 0)
        } else {
            self.shift(0, FULL)
        };
    }

    /// At most so many calls are in flight at a time; the next one finds the node full. The sum of what its
    /// connections' peers allow. Default: no limit.
    pub fn set_capacity(&self, calls: u32) {
        self.capacity.store(calls, Relaxed);
    }

    /// Whether it takes no further call now.
    pub fn is_full(&self) -> bool {
        self.state.load(Relaxed) & FULL != 0 || self.inflight.load(Relaxed) >= self.capacity.load(Relaxed)
    }

    /// How many calls are in flight: begun and neither finished nor dropped.
    pub fn inflight(&self) -> u32 {
        self.inflight.load(Relaxed)
    }

    /// Whether it is ejected, among the connected.
    pub fn is_ejected(&self) -> bool {
        self.state.load(Relaxed) & (READY | EJECTED) == READY | EJECTED
    }

    /// Forgets all that was learned: the address has become another process, whose slow start begins `now`.
    /// Calls in flight stay counted.
    pub fn reset_statistics(&self, now: Now) {
        self.latency.reset();
        self.window.clear();
        self.consecutive.store(0, Relaxed);
        self.doublings.store(0, Relaxed);
        self.ejected_until.store(0, Relaxed);
        self.slow_from.store(now.as_nanos().max(1), Relaxed);
        self.shift(0, UNHEALTHY | EJECTED | PROBED);
    }

    /// What is known of it at `now`, for people and metrics.
    pub fn stats(&self, now: Now) -> NodeStats {
        let (successes, failures) = self.window.totals(now);
        NodeStats {
            ready: self.is_ready(),
            full: self.is_full(),
            inflight: self.inflight(),
            latency: self.latency.mean().map(|nanos| Duration::from_nanos(nanos as u64)),
            successes,
            failures,
            consecutive_failures: self.consecutive.load(Relaxed).into(),
            ejected_for: self
                .is_ejected()
                .then(|| Now::from_nanos(self.ejected_until.load(Relaxed)).since(now)),
            ejections: self.ejections.load(Relaxed),
            connects: self.connects.load(Relaxed),
        }
    }

    /// The part of its weight that counts at `now`: 1 but for the slow start.
    pub(crate) fn share(&self, now: Now) -> f64 {
        match self.slow_from.load(Relaxed) {
            0 => 1.0,
            from => {
                let part = now.nanos_since(Now::from_nanos(from)) as f64 / SLOW_START.as_nanos() as f64;
                if part >= 1.0 {
                    self.slow_from.store(0, Relaxed);
                }
                (SLOW_START_FLOOR + (1.0 - SLOW_START_FLOOR) * part).min(1.0)
            }
        }
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.capacity.load(Relaxed)
    }

    /// Sets and clears state bits in one step and brings the cluster's counts along; returns the old state.
    pub(crate) fn shift(&self, set: u32, clear: u32) -> u32 {
        let state = self.state.load(Relaxed);
        if (state & !clear) | set == state {
            return state;
        }
        let old = self
            .state
            .fetch_update(Relaxed, Relaxed, |state| Some((state & !clear) | set))
            .expect("invariant: the update never declines");
        self.recount(old, (old & !clear) | set);
        old
    }

    fn recount(&self, old: u32, new: u32) {
        for (counter, bits) in [
            (Counter::Connected, READY),
            (Counter::Unhealthy, READY | UNHEALTHY),
            (Counter::Ejected, READY | EJECTED),
        ] {
            let (was, is) = (old & bits == bits, new & bits == bits);
            if was != is {
                self.peers.count(counter, is);
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shift(0, READY);
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("key", &self.key)
            .field("ready", &self.is_ready())
            .field("inflight", &self.inflight())
            .finish_non_exhaustive()
    }
}

/// A reading of a node's statistics.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStats {
    /// Whether it has a usable connection.
    pub ready: bool,
    /// Whether it takes no further call now.
    pub full: bool,
    /// Calls in flight.
    pub inflight: u32,
    /// The mean latency with its penalties, or `None` before the first answer.
    pub latency: Option<Duration>,
    /// Successes in the last 10 s.
    pub successes: u32,
    /// Failures in the last 10 s.
    pub failures: u32,
    /// Failures since the last success, at most 65535.
    pub consecutive_failures: u32,
    /// For how long it is still ejected; zero when only its probe is awaited; `None` when it is not.
    pub ejected_for: Option<Duration>,
    /// How often it was ejected.
    pub ejections: u32,
    /// How often it was connected.
    pub connects: u32,
}
