//! Several connections to one node: opened when its peer allows no more streams, given up when it is calm; and
//! connections that are replaced by age or given up when nobody calls.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use meshwork_client::Channel;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::{self, Instant},
};

use crate::{
    peer::Peer,
    support::{LIMIT, MS, Registry, foreign, native, text, until},
};

/// A peer that allows a few streams on each connection, and answers as many calls as the test lets it.
struct Narrow {
    addr: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    limit: AtomicU32,
    /// Connections still to be closed at once, and to be left without a word.
    refusing: AtomicUsize,
    stalling: AtomicUsize,
    /// Those to be given no stream, and closed after a moment.
    dismissing: AtomicUsize,
    opened: AtomicUsize,
    open: AtomicUsize,
    /// Calls in handlers, and the most that any one connection had.
    running: AtomicUsize,
    most: AtomicUsize,
    answers: Semaphore,
    connections: Mutex<Vec<tokio::task::AbortHandle>>,
}

impl Narrow {
    async fn start(limit: u32) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State {
            limit: AtomicU32::new(limit),
            refusing: AtomicUsize::new(0),
            stalling: AtomicUsize::new(0),
            dismissing: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            answers: Semaphore::new(0),
            connections: Mutex::default(),
        });
        let task = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                let mut connections = JoinSet::new();
                let mut stalled = Vec::new();
                while let Ok((stream, _)) = listener.accept().await {
                    if counts_down(&state.refusing) {
                        continue;
                    }
                    if counts_down(&state.stalling) {
                        stalled.push(stream);
                        continue;
                    }
                    state.opened.fetch_add(1, Ordering::SeqCst);
                    let serving = connections.spawn(serve(stream, Arc::clone(&state)));
                    state.connections.lock().unwrap().push(serving);
                }
            }
        });
        Self { addr, state, task }
    }

    /// Answers so many more calls.
    fn answer(&self, calls: usize) {
        self.state.answers.add_permits(calls);
    }

    /// Closes the next connection at once.
    fn refuse_next(&self) {
        self.state.refusing.store(1, Ordering::SeqCst);
    }

    /// Takes the next connection and never says a word on it.
    fn stall_next(&self) {
        self.state.stalling.store(1, Ordering::SeqCst);
    }

    /// Allows no stream on so many of the next connections, and closes them after a moment.
    fn dismiss(&self, connections: usize) {
        self.state.dismissing.store(connections, Ordering::SeqCst);
    }

    /// Whether what was asked for the next connections was done.
    fn is_welcoming(&self) -> bool {
        [&self.state.refusing, &self.state.stalling].iter().all(|count| count.load(Ordering::SeqCst) == 0)
    }

    /// Kills the connection that was opened as the `nth`.
    fn kill(&self, nth: usize) {
        self.state.connections.lock().unwrap()[nth].abort();
    }

    fn opened(&self) -> usize {
        self.state.opened.load(Ordering::SeqCst)
    }

    fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    fn running(&self) -> usize {
        self.state.running.load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }
}

impl Drop for Narrow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes one of what is left.
fn counts_down(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

/// Counts down when dropped.
struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    state.open.fetch_add(1, Ordering::SeqCst);
    let _open = Counted(&state.open);
    let mut builder = h2::server::Builder::new();
    let is_dismissed = counts_down(&state.dismissing);
    builder.max_concurrent_streams(if is_dismissed { 0 } else { state.limit.load(Ordering::SeqCst) });
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    if is_dismissed {
        // The beginning reaches the client, which counts the connection as open then.
        let _open = time::timeout(20 * MS, connection.accept()).await;
        return;
    }
    let mut answers = JoinSet::new();
    let here = Arc::new(AtomicUsize::new(0));
    while let Some(Ok((_request, mut respond))) = connection.accept().await {
        let (state, here) = (Arc::clone(&state), Arc::clone(&here));
        answers.spawn(async move {
            state.running.fetch_add(1, Ordering::SeqCst);
            let _running = Counted(&state.running);
            let mine = here.fetch_add(1, Ordering::SeqCst) + 1;
            let _mine = Counted(&here);
            state.most.fetch_max(mine, Ordering::SeqCst);
            state.answers.acquire().await.unwrap().forget();
            if let Ok(mut body) = respond.send_response(Response::new(()), false) {
                let _gone = body.send_data("ok".into(), true);
            }
        });
    }
}

fn begin(channel: &Channel, calls: usize) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for _ in 0..calls {
        let call = text(channel.post("/"));
        all.spawn(async move { assert_eq!(call.await.unwrap(), "ok") });
    }
    all
}

async fn end(calls: JoinSet<()>) {
    time::timeout(LIMIT, calls.join_all()).await.expect("calls that end");
}

fn spare_soon_idle(registry: &Registry) -> Channel {
    registry.channel_with(|config| config.spare_idle = 200 * MS)
}

#[tokio::test]
async fn crowds_open_more_connections_and_calm_closes_them() {
    let peer = Narrow::start(10).await;
    let channel = spare_soon_idle(&Registry::of([foreign("users-1", "grpc", peer.addr)]));
    for round in 1..=2 {
        let calls = begin(&channel, 35);
        until("all are in handlers", || peer.running() == 35).await;
        assert_eq!((peer.open(), peer.most()), (4, 10));
        assert_eq!(channel.nodes()[0].connections, 4);
        peer.answer(35);
        end(calls).await;
        until("it is calm and one is left", || peer.open() == 1).await;
        assert_eq!(peer.opened(), 1 + 3 * round, "the first one stays");
    }
    let calls = begin(&channel, 10);
    until("all are in handlers", || peer.running() == 10).await;
    peer.answer(10);
    end(calls).await;
    assert_eq!(channel.nodes()[0].connects, 1);
}

#[tokio::test]
async fn there_are_never_more_connections_than_configured_and_the_rest_waits() {
    let peer = Narrow::start(3).await;
    let registry = Registry::of([foreign("users-1", "grpc", peer.addr)]);
    let channel = registry.channel_with(|config| config.max_connections = 2);
    let calls = begin(&channel, 20);
    until("two are full", || peer.running() == 6).await;
    time::sleep(100 * MS).await;
    assert_eq!((peer.running(), peer.opened()), (6, 2));
    peer.answer(20);
    end(calls).await;
    assert_eq!((peer.most(), peer.opened()), (3, 2));
}

#[tokio::test]
async fn a_spare_that_could_not_be_dialled_is_dialled_again_while_streams_stay_open() {
    let peer = Narrow::start(2).await;
    let registry = Registry::of([foreign("users-1", "grpc", peer.addr)]);
    let channel = registry.channel_with(|config| config.max_connections = 2);
    let first = begin(&channel, 1);
    until("the first connection is open", || peer.running() == 1).await;
    peer.refuse_next();
    let others = begin(&channel, 3);
    until("the others are on a spare", || peer.running() == 4).await;
    assert!(peer.is_welcoming(), "no dial was refused");
    assert_eq!(peer.opened(), 2);
    peer.answer(4);
    end(first).await;
    end(others).await;
}

#[tokio::test]
async fn spares_that_their_peer_closes_at_once_are_dialled_ever_more_rarely() {
    let peer = Narrow::start(2).await;
    let registry = Registry::of([foreign("users-1", "grpc", peer.addr)]);
    let channel = registry.channel_with(|config| config.max_connections = 2);
    let first = begin(&channel, 1);
    until("the first connection is open", || peer.running() == 1).await;
    peer.dismiss(usize::MAX);
    let others = begin(&channel, 3);
    // With pauses of about 100, 200, 400 and 800 ms.
    time::sleep(1200 * MS).await;
    let dials = peer.opened() - 1;
    assert!((2..=5).contains(&dials), "{dials} dials in 1.2 s");
    peer.dismiss(0);
    until("all are on two connections", || peer.running() == 4).await;
    peer.answer(4);
    end(first).await;
    end(others).await;
    assert_eq!(channel.nodes()[0].failures, 0);
}

#[tokio::test]
async fn a_full_spare_that_is_given_up_by_age_is_followed_by_another() {
    let peer = Narrow::start(2).await;
    let registry = Registry::of([foreign("users-1", "grpc", peer.addr)]);
    let channel = registry.channel_with(|config| {
        config.max_connections = 2;
        config.max_age = Some(400 * MS);
        config.connect_timeout = 6 * LIMIT;
    });
    let first = begin(&channel, 1);
    until("the first connection is open", || peer.running() == 1).await;
    // The first one is old before the spare is, and finds nobody to replace it.
    time::sleep(150 * MS).await;
    let others = begin(&channel, 3);
    until("both are full", || peer.running() == 4).await;
    peer.stall_next();
    let waiting = begin(&channel, 2);
    until("those that waited are on another", || peer.running() == 6).await;
    assert!(peer.is_welcoming(), "the first connection was not to be replaced");
    peer.answer(6);
    for calls in [first, others, waiting] {
        end(calls).await;
    }
}

#[tokio::test]
async fn no_second_connection_without_a_crowd() {
    let peer = Narrow::start(3).await;
    let channel = Registry::of([foreign("users-1", "grpc", peer.addr)]).channel();
    peer.answer(200);
    for _ in 0..100 {
        end(begin(&channel, 2)).await;
    }
    assert_eq!(peer.opened(), 1);
}

#[tokio::test]
async fn the_first_connection_may_end_while_spares_serve_and_the_other_way_round() {
    let peer = Narrow::start(1).await;
    let channel = Registry::of([foreign("users-1", "grpc", peer.addr)]).channel();
    let calls = begin(&channel, 3);
    until("three are in handlers", || peer.running() == 3).await;
    peer.answer(3);
    end(calls).await;
    for nth in [0, 1, 2] {
        let (opened, open) = (peer.opened(), peer.open());
        peer.kill(nth);
        until("it is gone", || peer.open() < open || peer.opened() > opened).await;
        // The client sees it a moment later.
        time::sleep(20 * MS).await;
        let calls = begin(&channel, 3);
        peer.answer(3);
        end(calls).await;
    }
    assert_eq!(channel.nodes()[0].failures, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_narrow_peer_under_load_loses_no_call_and_no_room() {
    let peer = Narrow::start(2).await;
    let registry = Registry::of([foreign("users-1", "grpc", peer.addr)]);
    let channel = registry.channel_with(|config| config.spare_idle = 20 * MS);
    peer.answer(usize::MAX >> 4);
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        end(begin(&channel, 24)).await;
        calls += 24;
    }
    assert!(calls > 100 && peer.most() <= 2, "{calls} {}", peer.most());
    let node = &channel.nodes()[0];
    assert_eq!((node.failures, node.inflight), (0, 0));
}

#[tokio::test]
async fn connections_are_replaced_by_age_without_a_failed_call() {
    let mut peers = Vec::new();
    for name in ["users-1", "users-2"] {
        peers.push(Peer::native(name).await);
        peers.last().unwrap().delay(5 * MS);
    }
    let records = [native("users-1", "http", peers[0].addr), native("users-2", "http", peers[1].addr)];
    let channel = Registry::of(records).channel_with(|config| config.max_age = Some(150 * MS));
    let end = Instant::now() + Duration::from_secs(1);
    let mut calls = JoinSet::new();
    while Instant::now() < end {
        calls.spawn(text(channel.post("/")));
        time::sleep(MS).await;
    }
    let results = calls.join_all().await;
    let failed: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(failed.is_empty(), "{} of {} failed: {}", failed.len(), results.len(), failed[0]);
    for peer in &peers {
        assert!((3..=9).contains(&peer.connections()), "{} connections", peer.connections());
        until("the old ones are closed", || peer.open() == 1).await;
    }
    assert!(channel.nodes().iter().all(|node| node.connects == 1), "no node was without a connection");
}

#[tokio::test]
async fn an_old_connection_stays_while_no_other_can_be_had() {
    let peer = Peer::native("users-1").await;
    let (proxy, wire) = crate::peer::black_hole(peer.addr).await;
    let registry = Registry::of([native("users-1", "http", proxy)]);
    let channel = registry.channel_with(|config| config.max_age = Some(50 * MS));
    text(channel.post("/")).await.unwrap();
    wire.refuse();
    time::sleep(300 * MS).await;
    text(channel.post("/")).await.unwrap();
    assert_eq!(channel.nodes()[0].connects, 1);
}

#[tokio::test]
async fn a_connection_that_had_a_crowd_is_replaced_once_it_is_calm() {
    let peer = Narrow::start(u32::MAX).await;
    let channel = Registry::of([foreign("users-1", "grpc", peer.addr)]).channel();
    // Fewer are none; of the others it goes on though one stream stays open.
    for (crowd, connections) in [(900, 1), (1100, 2)] {
        let calls = begin(&channel, crowd);
        until("all are in handlers", || peer.running() == crowd).await;
        assert_eq!(peer.most(), crowd);
        peer.answer(crowd - 1);
        until("one is left", || peer.running() == 1).await;
        if connections > 1 {
            until("it is replaced", || peer.opened() == connections).await;
        } else {
            time::sleep(800 * MS).await;
        }
        assert_eq!(
            (peer.opened(), peer.open()),
            (connections, connections),
            "the open stream keeps the old one"
        );
        peer.answer(1);
        end(calls).await;
        until("the old one is closed", || peer.open() == 1).await;
    }
    let calls = begin(&channel, 10);
    peer.answer(10);
    end(calls).await;
    let node = &channel.nodes()[0];
    assert_eq!((peer.opened(), node.connects, node.failures), (2, 1, 0));
}
