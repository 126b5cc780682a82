//! The connections that are open, for the drain and the counters.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
};

use crate::conn::Conn;

/// All open connections of a server. Touched when one opens or closes, never by a request.
#[derive(Debug, Default)]
pub(crate) struct Open(Mutex<Live>);

#[derive(Debug, Default)]
struct Live {
    next: u64,
    conns: HashMap<u64, Arc<Conn>>,
}

/// Keeps one connection listed; lives in its socket.
#[derive(Debug)]
pub(crate) struct Listed {
    open: Arc<Open>,
    conn: Arc<Conn>,
    key: u64,
}

impl Open {
    pub(crate) fn list(self: &Arc<Self>, conn: Arc<Conn>) -> Listed {
        conn.shared.counters.open.fetch_add(1, Relaxed);
        let mut live = self.live();
        let key = live.next;
        live.next += 1;
        live.conns.insert(key, conn.clone());
        drop(live);
        Listed { open: self.clone(), conn, key }
    }

    /// All that are open now.
    pub(crate) fn all(&self) -> Vec<Arc<Conn>> {
        self.live().conns.values().cloned().collect()
    }

    /// Requests in flight, and requests begun, on connections that are open now.
    pub(crate) fn requests(&self) -> (usize, u64) {
        let live = self.live();
        live.conns.values().fold((0, 0), |(in_flight, started), conn| {
            (in_flight + conn.in_flight.load(Relaxed), started + conn.started.load(Relaxed))
        })
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let counters = &self.conn.shared.counters;
        counters.open.fetch_sub(1, Relaxed);
        let mut live = self.open.live();
        live.conns.remove(&self.key);
        // Under the lock, so that a reader counts each request once.
        counters.closed_requests.fetch_add(self.conn.started.load(Relaxed), Relaxed);
    }
}
