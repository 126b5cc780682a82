//! The beat that makes connection owners look at their half while calls are in flight, and that notices
//! silent peers.
//!
//! hyper does not wake the owner when a GOAWAY comes while streams are open. One timer per cluster, which
//! stands still while there is no traffic, wakes all owners instead of one timer per connection.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{self, Instant},
};

use crate::{expiry::Expiry, http2::Http2};

/// How often owners look at their half while calls are in flight.
const BEAT: Duration = Duration::from_millis(50);
/// After so many beats without a call the pulse stands still.
const IDLE_BEATS: u32 = 20;

/// So many looks make a ping interval.
const LOOKS: u32 = 4;

/// All connections of a cluster, and whether their pulse stands still.
pub(crate) struct Pulse {
    /// How often it is looked whether a peer is silent.
    look: Duration,
    still: AtomicBool,
    /// Whether a call woke it.
    called: AtomicBool,
    wake: Notify,
    connections: Mutex<Vec<Weak<Http2>>>,
    /// The long limits of calls, looked through at each beat.
    pub(crate) expiry: Expiry,
}

impl Pulse {
    /// A pulse that asks for a ping after `silence`.
    pub(crate) fn new(silence: Duration) -> Self {
        Self {
            look: (silence / LOOKS).max(BEAT),
            still: AtomicBool::new(false),
            called: AtomicBool::new(false),
            wake: Notify::new(),
            connections: Mutex::default(),
            expiry: Expiry::default(),
        }
    }

    /// Adds a connection.
    pub(crate) fn add(&self, connection: &Arc<Http2>) {
        let mut all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|connection| connection.strong_count() > 0);
        all.push(Arc::downgrade(connection));
        drop(all);
        if self.still.swap(false, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Says that a call begins. Costs one load but for the first call after a pause.
    pub(crate) fn quicken(&self) {
        if self.still.load(Ordering::Relaxed) && self.still.swap(false, Ordering::Relaxed) {
            self.called.store(true, Ordering::Relaxed);
            self.wake.notify_one();
        }
    }

    /// Ends every connection with all that is on it.
    pub(crate) fn cut_all(&self) {
        self.alive().iter().for_each(|connection| connection.cut());
    }

    fn alive(&self) -> Vec<Arc<Http2>> {
        let all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// Beats until no call was made for `rest`; for ever without it.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    pub(crate) async fn run(&self, rest: Option<Duration>) {
        let (mut calls, mut idle) = (0, 0);
        let mut looked = Instant::now();
        let mut called = Instant::now();
        loop {
            time::sleep(BEAT).await;
            let alive = self.alive();
            let (mut open, mut now) = (0, 0);
            for connection in &alive {
                connection.beat();
                open += connection.open_streams();
                now += connection.calls();
            }
            self.expiry.sweep(Instant::now());
            self.look(&alive, &mut looked);
            let calm = open == 0 && now == calls && self.expiry.is_empty();
            // Fewer than before: a connection ended.
            if open > 0 || now > calls || self.called.swap(false, Ordering::Relaxed) {
                called = Instant::now();
            }
            idle = if calm { idle + 1 } else { 0 };
            calls = now;
            if idle < IDLE_BEATS {
                continue;
            }
            self.still.store(true, Ordering::SeqCst);
            // A call that began just before saw the pulse beating and will not wake it.
            let calm = alive.iter().all(|connection| connection.open_streams() == 0);
            if calm && self.expiry.is_empty() {
                drop(alive);
                let rests = rest.and_then(|rest| called.checked_add(rest));
                if !self.stand_still(&mut looked, rests).await {
                    return;
                }
            }
            self.still.store(false, Ordering::Relaxed);
            idle = 0;
        }
    }

    /// Only listens, until a call begins or a connection is added; without anybody to listen to it sleeps.
    /// Says whether that happened before `rests`.
    async fn stand_still(&self, looked: &mut Instant, rests: Option<Instant>) -> bool {
        loop {
            let listens = self.alive().iter().any(|connection| connection.is_pinged());
            let looks = listens.then(|| Instant::now() + self.look);
            let Some(next) = looks.into_iter().chain(rests).min() else {
                self.wake.notified().await;
                return true;
            };
            if time::timeout_at(next, self.wake.notified()).await.is_ok() {
                return true;
            }
            if rests == Some(next) {
                return false;
            }
            self.look(&self.alive(), looked);
        }
    }

    /// Looks for silent peers, if it is time.
    fn look(&self, alive: &[Arc<Http2>], looked: &mut Instant) {
        if looked.elapsed() >= self.look {
            *looked = Instant::now();
            // The silence began up to one look before it was seen.
            alive.iter().for_each(|connection| connection.listen(LOOKS - 1));
        }
    }
}
