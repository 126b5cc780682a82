//! Scripted HTTP/2 peers: the rows of the table behind `failure.rs`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Request, Response};
use http_body_util::BodyExt;
use meshwork_client::CallErrorKind;
use meshwork_core::{Delivered, Verdict};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::{JoinHandle, JoinSet},
    time,
};

use crate::support::{MS, Registry, foreign, text, until};

/// What a scripted peer does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Script {
    /// Resets the first `n` streams with REFUSED_STREAM.
    Refuse(usize),
    /// Resets every stream with this reason.
    Reset(h2::Reason),
    /// Allows one stream at a time; each takes 5 ms.
    OneAtATime,
    /// Answers the first stream, then never reads again.
    FreezeAfterFirst,
    /// Leaves `/hang` open; says GOAWAY when told to.
    GoAwayWhenTold,
    /// Sends a head and a part of the body, then resets.
    BreakBody,
}

/// A scripted peer.
pub(crate) struct Raw {
    pub(crate) addr: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    connections: AtomicUsize,
    streams: AtomicUsize,
    running: AtomicUsize,
    most: AtomicUsize,
    told: Notify,
}

impl Raw {
    pub(crate) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let task = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    state.connections.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(serve(stream, script, Arc::clone(&state)));
                }
            }
        });
        Self { addr, state, task }
    }

    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    pub(crate) fn streams(&self) -> usize {
        self.state.streams.load(Ordering::SeqCst)
    }

    fn tell(&self) {
        self.state.told.notify_waiters();
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, script: Script, state: Arc<State>) {
    let mut builder = h2::server::Builder::new();
    if script == Script::OneAtATime {
        builder.max_concurrent_streams(1);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut answers = JoinSet::new();
    let mut going = false;
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                let nth = state.streams.fetch_add(1, Ordering::SeqCst);
                if script == Script::FreezeAfterFirst && nth > 0 {
                    // The socket stays open and nothing is read or written any more.
                    std::future::pending::<()>().await;
                }
                answers.spawn(answer(script, nth, request, respond, Arc::clone(&state)));
            }
            () = state.told.notified(), if script == Script::GoAwayWhenTold && !going => {
                going = true;
                connection.graceful_shutdown();
            }
        }
    }
}

async fn answer(
    script: Script,
    nth: usize,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: Arc<State>,
) {
    let running = state.running.fetch_add(1, Ordering::SeqCst) + 1;
    state.most.fetch_max(running, Ordering::SeqCst);
    match script {
        Script::Refuse(refused) if nth < refused => respond.send_reset(h2::Reason::REFUSED_STREAM),
        Script::Reset(reason) => respond.send_reset(reason),
        Script::GoAwayWhenTold if request.uri().path() == "/hang" => {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data("early ".into(), false).unwrap();
            state.told.notified().await;
            time::sleep(Duration::from_millis(200)).await;
            body.send_data("late".into(), true).unwrap();
        }
        Script::BreakBody => {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            body.send_data("part".into(), false).unwrap();
            time::sleep(Duration::from_millis(20)).await;
            body.send_reset(h2::Reason::INTERNAL_ERROR);
        }
        _ => {
            if script == Script::OneAtATime {
                time::sleep(Duration::from_millis(5)).await;
            }
            if let Ok(mut body) = respond.send_response(Response::new(()), false) {
                let _gone = body.send_data("ok".into(), true);
            }
        }
    }
    state.running.fetch_sub(1, Ordering::SeqCst);
}

fn registry(peers: &[&Raw]) -> Registry {
    let named = peers.iter().enumerate();
    Registry::of(named.map(|(nth, peer)| foreign(&format!("users-{nth}"), "grpc", peer.addr)))
}

#[tokio::test]
async fn a_refused_stream_is_sent_again_once_for_any_call() {
    let peer = Raw::start(Script::Refuse(1)).await;
    let registry = registry(&[&peer]);
    assert_eq!(text(registry.channel().post("/").body("x")).await.unwrap(), "ok");

    let peer = Raw::start(Script::Refuse(2)).await;
    let error = text(crate::raw::registry(&[&peer]).channel().post("/").body("x")).await.unwrap_err();
    assert_eq!(error.delivered(), Delivered::No, "{error}");
    assert_eq!(error.attempts().len(), 2, "{error}");
    assert_eq!(error.attempts()[0].then, "re-routed");
}

#[tokio::test]
async fn any_other_reset_may_have_been_delivered() {
    for reason in [h2::Reason::CANCEL, h2::Reason::INTERNAL_ERROR, h2::Reason::ENHANCE_YOUR_CALM] {
        let peer = Raw::start(Script::Reset(reason)).await;
        let error = text(registry(&[&peer]).channel().post("/")).await.unwrap_err();
        assert_eq!(error.kind(), CallErrorKind::Transport);
        assert_eq!(error.delivered(), Delivered::Maybe, "{error}");
        assert_eq!(peer.streams(), 1, "not sent twice");
        // The library's error is found behind ours: one copy of h2 in the tree.
        let mut next = std::error::Error::source(&error);
        let mut found = None;
        while let Some(source) = next {
            found = found.or_else(|| source.downcast_ref::<h2::Error>().and_then(h2::Error::reason));
            next = source.source();
        }
        assert_eq!(found, Some(reason));
    }
}

#[tokio::test]
async fn no_more_streams_are_opened_than_the_peer_allows() {
    let peer = Raw::start(Script::OneAtATime).await;
    let channel = registry(&[&peer]).channel_with(|config| config.max_connections = 1);
    let calls: Vec<_> = (0..20).map(|_| tokio::spawn(text(channel.post("/")))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "ok");
    }
    assert_eq!(peer.state.most.load(Ordering::SeqCst), 1);
    assert_eq!((peer.streams(), peer.connections()), (20, 1));
}

#[tokio::test]
async fn a_full_connection_sends_calls_to_another_node() {
    let (narrow, wide) = (Raw::start(Script::OneAtATime).await, Raw::start(Script::Refuse(0)).await);
    let channel = registry(&[&narrow, &wide]).channel_with(|config| config.max_connections = 1);
    channel.ready().await.unwrap();
    let calls: Vec<_> = (0..50).map(|_| tokio::spawn(text(channel.post("/")))).collect();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "ok");
    }
    assert_eq!(narrow.state.most.load(Ordering::SeqCst).max(1), 1);
}

#[tokio::test]
async fn a_goaway_with_a_stream_open_costs_no_call_and_the_stream_finishes() {
    let peer = Raw::start(Script::GoAwayWhenTold).await;
    let channel = registry(&[&peer]).channel();
    let open = channel.get("/hang").send().await.unwrap();
    until("the stream is open", || channel.nodes()[0].inflight == 1).await;
    peer.tell();
    until("the owner noticed and dialled again", || peer.connections() == 2).await;
    for _ in 0..20 {
        assert_eq!(text(channel.post("/")).await.unwrap(), "ok");
    }
    assert_eq!(open.text().await.unwrap(), "early late");
    assert_eq!(peer.connections(), 2);
}

#[tokio::test]
async fn a_body_that_breaks_is_our_error_with_the_cause_behind_it() {
    let peer = Raw::start(Script::BreakBody).await;
    let channel = registry(&[&peer]).channel();
    let answer = channel.get("/").send().await.unwrap();
    let mut body = answer.into_inner().into_body();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "part");
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.delivered(), Delivered::Maybe);
    assert!(error.to_string().contains("calling `users`: the answer broke off"), "{error}");
    assert!(body.frame().await.is_none());
    assert_eq!(channel.nodes()[0].failures, 1);
}

#[tokio::test]
async fn an_answer_that_breaks_after_another_attempt_lists_both() {
    let (refuses, breaks) =
        (Raw::start(Script::Refuse(usize::MAX)).await, Raw::start(Script::BreakBody).await);
    let channel = registry(&[&refuses, &breaks]).channel();
    channel.ready().await.unwrap();
    for _ in 0..100 {
        let error = text(channel.post("/")).await.unwrap_err();
        if refuses.streams() > 0 {
            let codes: Vec<_> =
                error.attempts().iter().map(|attempt| (&*attempt.code, attempt.then)).collect();
            let expected = [
                ("stream refused", "re-routed"),
                ("stream reset INTERNAL_ERROR", "no retry: the answer had begun"),
            ];
            assert_eq!(codes, expected, "{error}");
            return;
        }
    }
    panic!("the one that refuses was never met");
}

#[tokio::test]
async fn an_explicit_limit_spans_the_body() {
    let peer = Raw::start(Script::GoAwayWhenTold).await;
    let channel = registry(&[&peer]).channel();
    let answer = channel.timeout(100 * MS).get("/hang").send().await.unwrap();
    let error = answer.text().await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert!(error.to_string().contains("no end of the answer within 100ms"), "{error}");
    assert!(error.to_string().contains("body: no end of the answer after"), "the attempt is listed: {error}");
    until("the stream is given back", || channel.nodes()[0].inflight == 0).await;
    assert_eq!(channel.nodes()[0].failures, 0, "a long answer is no failure of the node");
}
