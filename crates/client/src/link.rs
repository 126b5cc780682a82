//! What the client holds for one node: how to address it and its connection of the moment.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt;
use meshwork_balance::{Node, NodeKey};
use meshwork_core::{Instance, InstanceId};
use tokio::sync::Notify;

use crate::{
    Attempt, AttemptPhase, CallError, Protocol,
    failure::Failure,
    http1::Http1,
    http2::Http2,
    lines::{Lines, Place},
    target::Target,
};

/// Where the connection of a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Being opened for the first time, or again after it ended.
    Connecting,
    /// Open, and confirmed where the instance is native.
    Connected,
    /// The last dial failed; the next one waits for its time.
    BackingOff,
    /// Somebody else answers at the address; nothing is sent until the record changes.
    Another,
    /// The instance said that it is going away.
    Draining,
}

impl ConnectionState {
    const ALL: [Self; 5] =
        [Self::Connecting, Self::Connected, Self::BackingOff, Self::Another, Self::Draining];

    /// Lowercase, for tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::BackingOff => "backing off",
            Self::Another => "another",
            Self::Draining => "draining",
        }
    }
}

/// After so many failed dials in a row the next one is half a second away, and a retry does not wait for it.
const HOPEFUL: u32 = 3;

/// Attached to a node: its connections.
pub(crate) struct Link {
    key: NodeKey,
    /// What is spoken where nothing is negotiated.
    protocol: Protocol,
    target: Target,
    record: ArcSwap<Instance>,
    /// Read by calls; written under `writing`.
    lines: Lines,
    writing: Mutex<()>,
    /// Only where HTTP/1.1 may be spoken.
    http1: Option<Arc<Http1>>,
    /// Who the last connection proved to end at.
    peer: ArcSwapOption<Arc<str>>,
    node: OnceLock<Weak<Node>>,
    state: AtomicU8,
    /// Dials that failed, ever, and since the last connection.
    failures: AtomicU64,
    streak: AtomicU32,
    last_failure: Mutex<Option<Attempt>>,
    drained: Mutex<Option<InstanceId>>,
    /// Who answered last, or whom the first record named.
    known: Mutex<InstanceId>,
    nudge: Notify,
    /// Connections opened ever.
    opened: AtomicU64,
    /// Whether calls ever found every connection full; told each time they do.
    crowded: AtomicBool,
    crowd: Notify,
    /// Told when an HTTP/1.1 call found nobody at the address.
    down: Notify,
}

impl Link {
    /// `http1`: where HTTP/1.1 may be spoken; `most`: HTTP/2 connections at a time.
    pub(crate) fn new(
        key: NodeKey,
        protocol: Protocol,
        record: Arc<Instance>,
        http1: Option<Http1>,
        most: usize,
    ) -> Self {
        Self {
            target: Target::new(&key),
            key,
            protocol,
            known: Mutex::new(record.id.clone()),
            record: ArcSwap::new(record),
            lines: Lines::new(most),
            writing: Mutex::default(),
            http1: http1.map(Arc::new),
            peer: ArcSwapOption::empty(),
            node: OnceLock::new(),
            state: AtomicU8::new(ConnectionState::Connecting as u8),
            failures: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            last_failure: Mutex::default(),
            drained: Mutex::default(),
            nudge: Notify::new(),
            opened: AtomicU64::new(0),
            crowded: AtomicBool::new(false),
            crowd: Notify::new(),
            down: Notify::new(),
        }
    }

    /// Ties it to its node, which holds it.
    pub(crate) fn tie(&self, node: &Arc<Node>) {
        let _once = self.node.set(Arc::downgrade(node));
    }

    pub(crate) fn node(&self) -> Option<Arc<Node>> {
        self.node.get()?.upgrade()
    }

    pub(crate) fn key(&self) -> &NodeKey {
        &self.key
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// The HTTP/1.1 connections.
    pub(crate) fn http1(&self) -> Option<&Arc<Http1>> {
        self.http1.as_ref()
    }

    /// The open HTTP/2 connections.
    pub(crate) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// Notes whom a new connection proved to end at.
    pub(crate) fn set_peer(&self, peer: Option<Arc<str>>) {
        self.peer.store(peer.map(Arc::new));
    }

    /// Whom the last connection proved to end at.
    pub(crate) fn peer(&self) -> Option<Arc<str>> {
        self.peer.load().as_deref().cloned()
    }

    /// The record of the moment.
    pub(crate) fn record(&self) -> Arc<Instance> {
        self.record.load_full()
    }

    /// Takes a changed record: the node may be somebody else now, so it is worth a dial.
    pub(crate) fn restate(&self, record: Arc<Instance>) {
        self.record.store(record);
        self.nudge.notify_one();
    }

    /// Waits until the record changes.
    pub(crate) async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// Waits until an HTTP/1.1 call finds nobody from now on.
    pub(crate) async fn is_down(&self) {
        // What was found before the last dial is over.
        let _over = self.down.notified().now_or_never();
        self.down.notified().await;
    }

    /// Says that an HTTP/1.1 call found nobody.
    pub(crate) fn found_nobody(&self) {
        self.down.notify_one();
    }

    pub(crate) fn state(&self) -> ConnectionState {
        ConnectionState::ALL[usize::from(self.state.load(Ordering::Relaxed))]
    }

    pub(crate) fn set_state(&self, state: ConnectionState) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    /// Whether it has a connection or is likely to have one within a moment.
    pub(crate) fn is_hopeful(&self) -> bool {
        match self.state() {
            ConnectionState::Connected | ConnectionState::Connecting => true,
            ConnectionState::BackingOff => self.streak.load(Ordering::Relaxed) <= HOPEFUL,
            ConnectionState::Another | ConnectionState::Draining => false,
        }
    }

    /// Publishes that an HTTP/1.1 connection can be had.
    pub(crate) fn publish_http1(&self) {
        self.set_ready();
    }

    /// Publishes a connection.
    pub(crate) fn publish(&self, place: Place, connection: &Arc<Http2>) {
        let _writing = lock(&self.writing);
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.lines.store(place, Some(Arc::clone(connection)));
        self.set_ready();
    }

    fn set_ready(&self) {
        self.set_state(ConnectionState::Connected);
        self.streak.store(0, Ordering::Relaxed);
        if let Some(node) = self.node() {
            node.set_full(false);
            node.set_ready(true);
        }
    }

    /// Takes a connection back. Without another the node is none to pick.
    pub(crate) fn withdraw(&self, place: Place, state: ConnectionState) {
        let _writing = lock(&self.writing);
        self.lines.store(place, None);
        if !self.lines.is_empty() {
            return;
        }
        self.set_state(state);
        if let Some(node) = self.node() {
            node.set_ready(false);
        }
    }

    /// Takes all connections back: the node is given up.
    pub(crate) fn close(&self) {
        let _writing = lock(&self.writing);
        if let Some(node) = self.node() {
            node.set_ready(false);
        }
        self.set_state(ConnectionState::Connecting);
        self.lines.clear();
    }

    /// Keeps new calls off the node when all its connections were retired, until an owner withdraws them.
    pub(crate) fn suspend(&self) {
        let _writing = lock(&self.writing);
        if let (false, Some(node)) = (self.lines.are_alive(), self.node()) {
            node.set_ready(false);
        }
    }

    /// Says that no connection has room. The owner dials a spare one, where one more is allowed.
    pub(crate) fn fill(&self, node: &Node) {
        node.set_full(true);
        self.review(node);
        if self.lines.free().is_none() {
            return;
        }
        self.crowd.notify_one();
        if !self.crowded.swap(true, Ordering::Relaxed)
            && let Some(first) = self.lines.first()
        {
            first.wake_owner();
        }
    }

    /// Asks for a spare once more while the node is full: it is given no call that would ask.
    pub(crate) fn ask_again(&self) {
        if self.node().is_some_and(|node| node.is_full()) {
            self.crowd.notify_one();
        }
    }

    /// Corrects what `fill` said when a stream was given back in the same moment.
    pub(crate) fn review(&self, node: &Node) {
        if node.is_full() && self.lines.have_room() {
            node.set_full(false);
        }
    }

    /// Whether calls ever found every connection full.
    pub(crate) fn was_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Waits until calls find every connection full.
    pub(crate) async fn is_crowded(&self) {
        self.crowd.notified().await;
    }

    /// Connections opened ever, but for those of HTTP/1.1.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Who answers, where it was confirmed.
    pub(crate) fn identity(&self) -> Option<InstanceId> {
        self.lines.first()?.identity().cloned()
    }

    /// Notes who answers; says whether it is another process than before.
    pub(crate) fn identified(&self, id: &InstanceId) -> bool {
        std::mem::replace(&mut *lock(&self.known), id.clone()) != *id
    }

    /// Notes that `id` said it is draining.
    pub(crate) fn drain(&self, id: InstanceId) {
        *lock(&self.drained) = Some(id);
    }

    /// Whether `id` said that it is draining; that is final for an id.
    pub(crate) fn is_drained(&self, id: &InstanceId) -> bool {
        lock(&self.drained).as_ref() == Some(id)
    }

    /// Notes a failed dial.
    pub(crate) fn failed(&self, error: CallError, elapsed: Duration) {
        let code = Failure::connect(error).code;
        let attempt = Attempt {
            address: Arc::clone(self.target.address()),
            instance: self.record.load().id.clone(),
            phase: AttemptPhase::Connect,
            code,
            elapsed,
            then: "",
        };
        *lock(&self.last_failure) = Some(attempt);
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.streak.fetch_add(1, Ordering::Relaxed);
    }

    /// Dials that failed, ever.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// The last failed dial.
    pub(crate) fn last_failure(&self) -> Option<Attempt> {
        lock(&self.last_failure).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use meshwork_balance::{Arrival, Now, Peers};
    use meshwork_core::ServiceName;
    use tokio::task::JoinSet;

    use super::*;
    use crate::lines::{Took, tests::narrow};

    #[tokio::test]
    async fn a_node_is_called_full_only_while_no_connection_has_room() {
        let mut ends = JoinSet::new();
        let key = NodeKey::new(["grpc://10.0.0.1:90".parse().unwrap()]);
        let record = Arc::new(Instance::new(ServiceName::new("users").unwrap()));
        let link = Arc::new(Link::new(key.clone(), Protocol::Http2, record, None, 2));
        let peers = Peers::new(|| Now::from_nanos(1));
        let attachment: Arc<Link> = Arc::clone(&link);
        let node = Node::new(key, attachment, &peers, Arrival::new(Now::from_nanos(1)));
        link.tie(&node);
        let (first, spare) = (narrow(&mut ends).await, narrow(&mut ends).await);
        link.publish(Place::First, &first);
        for last in [false, true] {
            assert!(matches!(link.lines().take(None), Took::Stream { last: is, .. } if is == last));
        }
        assert!(!link.was_crowded());
        link.fill(&node);
        assert!(node.is_full() && link.was_crowded());

        // A stream came back in the moment in which the node was called full.
        first.give_stream();
        link.fill(&node);
        assert!(!node.is_full());
        node.set_full(true);
        link.review(&node);
        assert!(!node.is_full());

        link.publish(Place::Spare(0), &spare);
        link.withdraw(Place::First, ConnectionState::Connecting);
        assert!(node.is_ready(), "the spare serves");
        spare.retire();
        link.suspend();
        assert!(!node.is_ready());
        link.withdraw(Place::Spare(0), ConnectionState::BackingOff);
        assert_eq!((link.state(), link.opened()), (ConnectionState::BackingOff, 2));
    }
}
