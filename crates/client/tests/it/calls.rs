//! What a caller sees: answers, deadlines, options, context.

use std::time::Duration;

use http::Method;
use meshwork_client::{CallErrorKind, Limit, OptionsExt};
use meshwork_core::{Context, Delivered, Priority, Verdict};
use tokio::time::Instant;

use crate::{
    peer::Peer,
    support::{MS, Registry, native, text},
};

#[tokio::test]
async fn a_plain_call_reaches_a_native_instance_over_http2() {
    let peer = Peer::native("users-1").await;
    peer.script(|request| {
        let text = format!("{:?} {} {:?}", request.version(), request.uri().path(), request.body());
        http::Response::new(text.into())
    });
    let channel = Registry::of([native("users-1", "http", peer.addr)]).channel();
    let said = text(channel.post("/v1/users?full=1").body("hello")).await.unwrap();
    assert_eq!(said, "HTTP/2.0 /v1/users b\"hello\"");
    assert_eq!(peer.connections(), 1);
    assert_eq!(channel.nodes()[0].confirmed.as_ref().map(|id| id.as_str()), Some("users-1"));
}

#[tokio::test]
async fn json_goes_and_comes_and_its_size_is_bounded() {
    let peer = Peer::native("users-1").await;
    peer.script(|request| {
        assert_eq!(request.headers()["content-type"], "application/json");
        http::Response::new(http_body_util::Full::new(request.body().clone()))
    });
    let channel = Registry::of([native("users-1", "http", peer.addr)]).channel();
    let echo = || channel.request(Method::PUT, "/echo").json(&vec![1, 2, 3]);
    let answer: Vec<u8> = echo().send().await.unwrap().json().await.unwrap();
    assert_eq!(answer, [1, 2, 3]);
    let error = echo().send().await.unwrap().json::<String>().await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::Answer);
    let error = echo().send().await.unwrap().limit(3).bytes().await.unwrap_err();
    assert!(error.to_string().contains("larger than 3 bytes"), "{error}");
}

#[tokio::test]
async fn what_cannot_be_sent_fails_at_send() {
    let peer = Peer::native("users-1").await;
    let channel = Registry::of([native("users-1", "http", peer.addr)]).channel();
    for request in [
        channel.get("no-slash"),
        channel.get("/a b"),
        channel.get("/").header("bad name", "x"),
        channel.get("/").header("name", "bad\nvalue"),
        channel.to_instance("../users").get("/"),
    ] {
        assert_eq!(request.send().await.unwrap_err().kind(), CallErrorKind::Invalid);
    }
    assert_eq!(peer.requests(), 0);
}

#[tokio::test]
async fn a_deadline_says_which_limit_passed_and_where_it_was_set() {
    let peer = Peer::native("users-1").await;
    peer.hang(true);
    let registry = Registry::of([native("users-1", "http", peer.addr)]);
    let channel = registry.channel_with(|config| {
        config.timeout = Some(Limit::new(150 * MS, "[client.users] timeout, config/prod.toml:12"));
    });
    let begun = Instant::now();
    let error = text(channel.get("/")).await.unwrap_err();
    assert!(begun.elapsed() < 2 * Duration::from_secs(1));
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert_eq!(error.delivered(), Delivered::Maybe);
    let shown = error.to_string();
    assert!(shown.contains("150ms ([client.users] timeout, config/prod.toml:12)"), "{shown}");
    assert_eq!(error.attempts().len(), 1, "{shown}");

    let error = text(channel.timeout(50 * MS).get("/")).await.unwrap_err();
    assert!(error.to_string().contains("50ms (the call's timeout option)"), "{error}");
}

#[tokio::test]
async fn a_limit_of_seconds_passes_hardly_late() {
    let peer = Peer::native("users-1").await;
    peer.hang(true);
    let channel = Registry::of([native("users-1", "http", peer.addr)]).channel();
    channel.ready().await.unwrap();
    let begun = Instant::now();
    let error = text(channel.timeout(2500 * MS).get("/")).await.unwrap_err();
    let took = begun.elapsed();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert!(took >= 2500 * MS && took < 3500 * MS, "{took:?}");
    crate::support::until("the handler was cancelled", || peer.running() == 0).await;
}

#[tokio::test]
async fn a_call_without_any_time_left_is_never_sent() {
    let peer = Peer::native("users-1").await;
    let channel = Registry::of([native("users-1", "http", peer.addr)]).channel();
    channel.ready().await.unwrap();
    let mut context = Context::default();
    context.deadline = Some(Instant::now());
    let error = context.scope(async { text(channel.get("/")).await.unwrap_err() }).await;
    assert_eq!((error.kind(), error.delivered()), (CallErrorKind::Deadline, Delivered::No));
    assert_eq!(peer.requests(), 0);
}

#[tokio::test]
async fn a_handlers_deadline_lane_and_attempt_travel_and_detached_leaves_them_aside() {
    let peer = Peer::native("users-1").await;
    peer.script(|request| {
        let seen = |name: &str| request.headers().get(name).map_or("-", |value| value.to_str().unwrap());
        let timeout = meshwork_core::timeout::parse(seen("meshwork-timeout")).unwrap_or_default();
        let within = timeout <= Duration::from_millis(500) && timeout > Duration::from_millis(300);
        let (lane, priority) = (seen("meshwork-lane"), seen("meshwork-priority"));
        let (attempt, trace) = (seen("meshwork-attempt"), seen("traceparent"));
        http::Response::new(format!("{within} {lane} {priority} {attempt} {trace}").into())
    });
    let channel = Registry::of([native("users-1", "http", peer.addr)]).channel();
    channel.ready().await.unwrap();
    let mut context = Context::default();
    context.deadline = Some(Instant::now() + 500 * MS);
    context.lane = Some("blue".into());
    context.priority = Priority::Critical;
    context.attempt = 1;
    context.trace = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    let (inside, detached) = context
        .scope(async { (text(channel.get("/")).await, text(channel.detached().get("/")).await) })
        .await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    assert_eq!(inside.unwrap(), format!("true blue critical 1 {trace}"));
    assert_eq!(detached.unwrap(), "false - - - -");
}

#[tokio::test]
async fn options_of_a_request_win_over_the_channels() {
    let (one, two) = (Peer::native("users-1").await, Peer::native("users-2").await);
    let instances = [native("users-1", "http", one.addr), native("users-2", "http", two.addr)];
    let channel = Registry::of(instances).channel().to_instance("users-1");
    for _ in 0..5 {
        assert_eq!(text(channel.get("/")).await.unwrap(), "users-1");
        let pinned = channel.get("/").options(|options| options.to_instance("users-2"));
        assert_eq!(text(pinned).await.unwrap(), "users-2");
    }
    assert_eq!(
        text(channel.with_options(|_| Default::default()).to_addr(two.addr).get("/")).await.unwrap(),
        "users-2"
    );
    let error = text(channel.to_instance("users-9").get("/")).await.unwrap_err();
    assert_eq!(error.kind(), CallErrorKind::NoInstance);
    assert!(error.to_string().contains("users-9"), "{error}");
    let request = http::Request::new(String::new()).options(|options| options.lane("blue"));
    assert!(format!("{:?}", request.extensions().get::<meshwork_client::CallOptions>()).contains("blue"));
}

#[tokio::test]
async fn a_call_that_is_given_up_resets_its_stream_and_counts_no_more() {
    let peer = Peer::native("users-1").await;
    peer.hang(true);
    let channel = Registry::of([native("users-1", "http", peer.addr)]).channel();
    let call = tokio::spawn(text(channel.get("/")));
    crate::support::until("the call is in its handler", || peer.running() == 1).await;
    assert_eq!(channel.nodes()[0].inflight, 1);
    call.abort();
    crate::support::until("the handler was cancelled", || peer.running() == 0).await;
    crate::support::until("nothing is in flight", || channel.nodes()[0].inflight == 0).await;
    assert_eq!(peer.connections(), 1);
}

#[tokio::test]
async fn a_channel_made_outside_a_runtime_works_inside_one() {
    let registry = Registry::pending();
    let channel = std::thread::spawn({
        let watch = registry.watch();
        move || meshwork_client::Channel::new(crate::support::service(), watch, Default::default())
    })
    .join()
    .unwrap();
    let peer = Peer::native("users-1").await;
    registry.set([native("users-1", "http", peer.addr)]);
    assert_eq!(text(channel.get("/")).await.unwrap(), "users-1");
}

#[tokio::test]
async fn the_last_channel_closes_the_connections_and_close_refuses_new_calls() {
    let peer = Peer::native("users-1").await;
    let registry = Registry::of([native("users-1", "http", peer.addr)]);
    let channel = registry.channel();
    text(channel.get("/")).await.unwrap();
    assert_eq!(peer.open(), 1);
    drop(channel);
    crate::support::until("the connection is closed", || peer.open() == 0).await;

    let channel = registry.channel();
    text(channel.get("/")).await.unwrap();
    assert!(channel.close().await);
    crate::support::until("the connection is closed", || peer.open() == 0).await;
    assert_eq!(text(channel.get("/")).await.unwrap_err().kind(), CallErrorKind::Transport);
}
