//! Hostile peers, frame by frame: each costs its own callers a typed error and nobody else anything.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use meshwork_client::{CallError, CallErrorKind, Channel};
use meshwork_core::{Delivered, Verdict};
use tokio::{task::JoinSet, time::Instant};
use tower_service::Service;

use crate::{
    echo::{client, text as message},
    peer::Peer,
    support::{LIMIT, MS, Registry, foreign, tasks_left, text, until},
    villain::{Evil, Villain, http1, http1_evils},
};

/// A channel to a villain and to an honest peer.
struct Scene {
    villain: Villain,
    honest: Peer,
    channel: Channel,
    _registry: Registry,
}

impl Scene {
    async fn of(evil: Evil) -> Self {
        let (villain, honest) = (Villain::start(evil).await, Peer::foreign("honest").await);
        let records = [foreign("evil", "grpc", villain.addr), foreign("honest", "grpc", honest.addr)];
        let registry = Registry::of(records);
        let channel = registry.channel_with(|config| config.connect_timeout = 300 * MS);
        Self { villain, honest, channel, _registry: registry }
    }

    /// Calls the villain, and its body too.
    async fn ask(&self) -> Result<String, CallError> {
        self.ask_within(LIMIT).await
    }

    async fn ask_within(&self, limit: Duration) -> Result<String, CallError> {
        text(self.channel.to_instance("evil").timeout(limit).post("/").body("x")).await
    }

    /// Calls that may go anywhere else do not suffer.
    async fn neighbours_are_unharmed(&self) {
        let honest = self.channel.to_instance("honest");
        for _ in 0..20 {
            assert_eq!(text(honest.post("/")).await.unwrap(), "honest");
        }
        let nodes = self.channel.nodes();
        let honest = nodes.iter().find(|node| node.instance.id.as_str() == "honest").unwrap();
        assert_eq!((honest.failures, honest.connects), (0, 1));
        assert_eq!(self.honest.connections(), 1);
        let begun = Instant::now();
        until("nothing is left in flight", || self.channel.nodes().iter().all(|node| node.inflight == 0))
            .await;
        assert!(begun.elapsed() < Duration::from_secs(4));
    }
}

async fn fails(evil: Evil, kind: CallErrorKind, delivered: Delivered) {
    let scene = Scene::of(evil).await;
    let limit = if kind == CallErrorKind::Deadline { 300 * MS } else { LIMIT };
    for _ in 0..3 {
        let error = scene.ask_within(limit).await.expect_err(&format!("{evil:?} was taken for an answer"));
        assert_eq!((error.kind(), error.delivered()), (kind, delivered), "{evil:?}: {error}");
        assert!(!error.attempts().is_empty(), "{evil:?}: {error}");
        assert!(error.to_string().contains(&scene.villain.addr.to_string()), "{evil:?}: {error}");
    }
    scene.neighbours_are_unharmed().await;
}

#[tokio::test]
async fn a_peer_that_does_not_begin_well_is_no_connection() {
    for evil in [Evil::Noise, Evil::ClosesAtOnce, Evil::AbsurdSettings] {
        let scene = Scene::of(evil).await;
        for _ in 0..3 {
            let error = scene.ask().await.expect_err("no connection");
            // Either the dial failed, or the connection before its first call.
            assert_eq!(error.delivered(), Delivered::No, "{evil:?}: {error}");
            assert!(
                matches!(
                    error.kind(),
                    CallErrorKind::Connect | CallErrorKind::Transport | CallErrorKind::Deadline
                ),
                "{evil:?}: {error}"
            );
        }
        scene.neighbours_are_unharmed().await;
        assert!(scene.villain.accepted() <= 12, "{evil:?} was dialled {} times", scene.villain.accepted());
    }
}

#[tokio::test]
async fn a_peer_that_allows_no_stream_gets_none_and_its_calls_end() {
    let scene = Scene::of(Evil::NoStreamsAllowed).await;
    for _ in 0..2 {
        let error = scene.ask_within(300 * MS).await.unwrap_err();
        assert_eq!((error.kind(), error.delivered()), (CallErrorKind::Deadline, Delivered::No), "{error}");
    }
    assert_eq!(scene.villain.asked(), 0);
    assert!(scene.villain.accepted() <= 5, "{}", scene.villain.accepted());
    scene.neighbours_are_unharmed().await;
}

#[tokio::test]
async fn broken_frames_and_heads_may_have_been_delivered() {
    for evil in [
        Evil::ShortWindowUpdate,
        Evil::DataOnNoStream,
        Evil::Push,
        Evil::HugeHeader,
        Evil::BadHpack,
        Evil::StatusTooLow,
        Evil::StatusTooHigh,
        Evil::NoStatus,
        Evil::ResetStorm,
    ] {
        fails(evil, CallErrorKind::Transport, Delivered::Maybe).await;
    }
}

#[tokio::test]
async fn a_header_without_end_is_cut_off() {
    fails(Evil::EndlessHeader, CallErrorKind::Transport, Delivered::Maybe).await;
}

#[tokio::test]
async fn bodies_that_lie_or_break_off_are_errors() {
    for evil in [Evil::ResetMidway, Evil::LongBody, Evil::ShortBody, Evil::CloseMidway] {
        fails(evil, CallErrorKind::Transport, Delivered::Maybe).await;
    }
}

#[tokio::test]
async fn a_peer_that_never_answers_costs_the_time_allowed() {
    for evil in [Evil::Silence, Evil::PingsAndNoSettings] {
        fails(evil, CallErrorKind::Deadline, Delivered::Maybe).await;
    }
}

#[tokio::test]
async fn a_goaway_to_every_stream_delivers_nothing_and_is_dialled_ever_more_rarely() {
    let scene = Scene::of(Evil::CalmDown).await;
    let begun = Instant::now();
    let mut calls = 0;
    while begun.elapsed() < Duration::from_secs(1) {
        let error = scene.ask_within(300 * MS).await.expect_err("nobody answers");
        assert_eq!(error.delivered(), Delivered::No, "{error}");
        assert!(!error.attempts().is_empty(), "{error}");
        calls += 1;
    }
    // With pauses of about 100, 200, 400 and 800 ms, whoever calls.
    let most = 5 + begun.elapsed().as_secs() as usize;
    assert!(scene.villain.accepted() <= most, "{} dials by {calls} calls", scene.villain.accepted());
    scene.neighbours_are_unharmed().await;
}

#[tokio::test]
async fn floods_are_waded_through_or_cut_off() {
    for evil in [Evil::PingFlood, Evil::SettingsFlood, Evil::EmptyFrames] {
        let scene = Scene::of(evil).await;
        match scene.ask_within(2 * LIMIT).await {
            Ok(body) => assert_eq!(body, "ok", "{evil:?}"),
            Err(error) => assert_eq!(error.kind(), CallErrorKind::Transport, "{evil:?}: {error}"),
        }
        scene.neighbours_are_unharmed().await;
    }
}

#[tokio::test]
async fn a_peer_that_closes_after_each_answer_fails_no_call() {
    let scene = Scene::of(Evil::CloseAfterEach).await;
    for _ in 0..30 {
        assert_eq!(scene.ask().await.unwrap(), "ok");
    }
    scene.neighbours_are_unharmed().await;
}

#[tokio::test]
async fn a_grpc_answer_without_status_is_an_error_of_ours() {
    for evil in [Evil::TrailersWithoutStatus, Evil::NoTrailers, Evil::HeadAndNothing] {
        let scene = Scene::of(evil).await;
        let status = client(&scene.channel.to_instance("evil")).unary(message("x")).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Internal, "{evil:?}: {status}");
        let error = CallError::of(&status).unwrap_or_else(|| panic!("{evil:?}: not ours: {status}"));
        assert_eq!((error.kind(), error.delivered()), (CallErrorKind::Transport, Delivered::Maybe));
        assert!(error.to_string().contains("it tells no grpc-status"), "{error}");
        assert_eq!(error.attempts().len(), 1);
        let nodes = scene.channel.nodes();
        assert_eq!((nodes[0].failures, nodes[0].inflight), (1, 0), "{evil:?}");
        scene.neighbours_are_unharmed().await;
    }
}

#[tokio::test]
async fn a_grpc_code_out_of_range_is_unknown_and_the_nodes_failure() {
    let scene = Scene::of(Evil::CodeOutOfRange).await;
    let status = client(&scene.channel.to_instance("evil")).unary(message("x")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unknown);
    assert_eq!(scene.channel.nodes()[0].failures, 1);
}

#[tokio::test]
async fn a_raw_call_sees_the_end_of_a_broken_grpc_answer_as_an_error_once() {
    let scene = Scene::of(Evil::HeadAndNothing).await;
    let mut request = Request::post("/a.B/C").body(Full::new(Bytes::new())).unwrap();
    request.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    let mut body = scene.channel.to_instance("evil").call(request).await.unwrap().into_body();
    assert!(!http_body::Body::is_end_stream(&body));
    assert!(body.frame().await.unwrap().is_err());
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn broken_http1_answers_are_errors_and_are_not_asked_for_twice() {
    let honest = Peer::foreign("honest").await;
    for answer in http1_evils() {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        let (addr, _task) = http1(answer).await;
        let records = [foreign("evil", "http", addr), foreign("honest", "http", honest.addr)];
        let channel = Registry::of(records).channel();
        for _ in 0..2 {
            let error =
                text(channel.to_instance("evil").timeout(500 * MS).post("/")).await.expect_err(&shown);
            assert_eq!(error.delivered(), Delivered::Maybe, "{shown}: {error}");
            assert!(matches!(error.kind(), CallErrorKind::Transport), "{shown}: {error}");
            assert_eq!(error.attempts().len(), 1, "{shown}: {error}");
        }
        assert_eq!(text(channel.to_instance("honest").post("/")).await.unwrap(), "honest");
    }
}

#[tokio::test]
async fn an_answer_nobody_asked_for_is_never_given_to_the_next_call() {
    let (addr, _task) = http1(
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nevil\n",
    )
    .await;
    let channel = Registry::of([foreign("evil", "http", addr)]).channel();
    for _ in 0..20 {
        match text(channel.get("/")).await {
            Ok(body) => assert_eq!(body, "ok\n"),
            Err(error) => assert_eq!(error.kind(), CallErrorKind::Transport, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_them_at_a_time_harm_no_neighbour_and_nothing_is_left() {
    let honest = Peer::foreign("honest").await;
    let (mut villains, mut records) = (Vec::new(), vec![foreign("honest", "grpc", honest.addr)]);
    for evil in Evil::ALL {
        let villain = Villain::start(evil).await;
        records.push(foreign(&format!("{evil:?}").to_lowercase(), "grpc", villain.addr));
        villains.push(villain);
    }
    let registry = Registry::of(records.clone());
    let before = tasks_left();
    // Patient, because all of them take the processors.
    let channel = registry.channel_with(|config| config.connect_timeout = LIMIT);
    let mut calls = JoinSet::new();
    for record in &records[1..] {
        let evil = channel.to_instance(record.id.as_str()).timeout(200 * MS);
        calls.spawn(async move {
            for _ in 0..3 {
                if let Err(error) = text(evil.post("/").body("x")).await {
                    let is_maybe = error.delivered() == Delivered::Maybe;
                    assert!(!is_maybe || !error.attempts().is_empty(), "{error}");
                }
            }
        });
    }
    let to_honest = channel.to_instance("honest");
    while !calls.is_empty() {
        assert_eq!(text(to_honest.post("/")).await.unwrap(), "honest");
        while let Some(call) = calls.try_join_next() {
            call.unwrap();
        }
    }
    let nodes = channel.nodes();
    let node = nodes.iter().find(|node| node.instance.id.as_str() == "honest").unwrap();
    assert_eq!((node.failures, node.connects, honest.connections()), (0, 1, 1));
    drop((channel, to_honest, nodes, villains));
    until("nothing is left of it", || tasks_left() <= before).await;
}
