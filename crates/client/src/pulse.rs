//! The beat that makes connection owners look at their half while calls are in flight.
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

use tokio::{sync::Notify, time};

use crate::http2::Http2;

/// How often owners look at their half while calls are in flight.
const BEAT: Duration = Duration::from_millis(50);
/// After so many beats without a call the pulse stands still.
const IDLE_BEATS: u32 = 20;

/// All connections of a cluster, and whether their pulse stands still.
#[derive(Default)]
pub(crate) struct Pulse {
    still: AtomicBool,
    wake: Notify,
    connections: Mutex<Vec<Weak<Http2>>>,
}

impl Pulse {
    /// Adds a connection.
    pub(crate) fn add(&self, connection: &Arc<Http2>) {
        let mut all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|connection| connection.strong_count() > 0);
        all.push(Arc::downgrade(connection));
        drop(all);
        self.quicken();
    }

    /// Says that a call begins. Costs one load but for the first call after a pause.
    pub(crate) fn quicken(&self) {
        if self.still.load(Ordering::Relaxed) && self.still.swap(false, Ordering::Relaxed) {
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

    /// Beats for ever.
    ///
    /// # Cancel safety
    /// May be dropped at any await.
    pub(crate) async fn run(&self) {
        let (mut calls, mut idle) = (0, 0);
        loop {
            time::sleep(BEAT).await;
            let alive = self.alive();
            let (mut open, mut now) = (0, 0);
            for connection in &alive {
                connection.beat();
                open += connection.open_streams();
                now += connection.calls();
            }
            idle = if open == 0 && now == calls { idle + 1 } else { 0 };
            calls = now;
            if idle < IDLE_BEATS {
                continue;
            }
            self.still.store(true, Ordering::SeqCst);
            // A call that began just before saw the pulse beating and will not wake it.
            if alive.iter().all(|connection| connection.open_streams() == 0) {
                drop(alive);
                self.wake.notified().await;
            }
            self.still.store(false, Ordering::Relaxed);
            idle = 0;
        }
    }
}
