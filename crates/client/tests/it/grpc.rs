//! A client in the shape of generated code, unchanged over the channel.

use std::time::Duration;

use meshwork_client::{CallError, CallErrorKind, MethodConfig, OptionsExt};
use meshwork_core::{Context, timeout};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::{
    echo::{EchoClient, client, text, tonic_server},
    peer::refused,
    support::{MS, Registry, foreign, until},
};

#[tokio::test]
async fn all_four_kinds_of_calls_work_over_one_connection() {
    let (addr, _server) = tonic_server().await;
    let channel = Registry::of([foreign("users-1", "grpc", addr)]).channel();
    let mut echo = client(&channel);
    assert_eq!(echo.unary(text("hello")).await.unwrap(), "hello");

    let mut stream = echo.server(text("a b c")).await.unwrap();
    let mut seen = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        seen.push(message.text);
    }
    assert_eq!(seen, ["a", "b", "c"]);

    let all_there = tokio_stream::iter([text("x"), text("y")]);
    assert_eq!(echo.client(all_there).await.unwrap(), "x y");

    let (say, said) = mpsc::channel(4);
    let mut answers = echo.both(ReceiverStream::new(said)).await.unwrap();
    for word in ["one", "two", "three"] {
        say.send(text(word)).await.unwrap();
        assert_eq!(answers.message().await.unwrap().unwrap().text, word);
    }
    drop(say);
    assert!(answers.message().await.unwrap().is_none());

    until("nothing is in flight", || channel.nodes()[0].inflight == 0).await;
    let node = &channel.nodes()[0];
    assert_eq!((node.connects, node.failures, node.successes), (1, 0, 4));
}

#[tokio::test]
async fn an_interceptor_works_over_it() {
    let (addr, _server) = tonic_server().await;
    let channel = Registry::of([foreign("users-1", "grpc", addr)]).channel();
    let mut echo = EchoClient::with_interceptor(channel.clone(), |mut request: Request<()>| {
        request.metadata_mut().insert("x-by", "interceptor".parse().unwrap());
        Ok(request)
    });
    assert_eq!(echo.unary(text("by")).await.unwrap(), "interceptor");
    let refuse = |_: Request<()>| Err(Status::unauthenticated("no"));
    let mut refused = EchoClient::with_interceptor(channel, refuse);
    assert_eq!(refused.unary(text("by")).await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn options_pass_through_the_client_and_the_error_is_found_behind_the_status() {
    let (addr, _server) = tonic_server().await;
    let mut echo = client(&Registry::of([foreign("users-1", "grpc", addr)]).channel());
    let request = Request::new(text("hang")).options(|options| options.timeout(100 * MS));
    let status = echo.unary(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let error = CallError::of(&status).unwrap();
    assert_eq!(error.kind(), CallErrorKind::Deadline);
    assert!(status.message().contains("100ms (the call's timeout option)"), "{status}");
    assert!(!status.message().contains("127.0.0.1"), "addresses stay out of the status: {status}");
    assert_eq!(error.attempts().len(), 1);
}

#[tokio::test]
async fn the_time_left_travels_as_grpc_timeout() {
    let (addr, _server) = tonic_server().await;
    let registry = Registry::of([foreign("users-1", "grpc", addr)]);
    let channel = registry.channel_with(|config| {
        let limit = meshwork_client::Limit::new(700 * MS, "config/prod.toml:7");
        config.methods.insert("test.Echo/Unary".into(), MethodConfig::new(Some(limit), true));
    });
    let mut echo = client(&channel);
    // The first call waits for its connection, and so has less.
    let said = echo.unary(text("timeout")).await.unwrap();
    assert!(timeout::parse(&said).unwrap() <= 700 * MS, "{said}");
    assert_eq!(echo.unary(text("timeout")).await.unwrap(), "700000u");

    let mut context = Context::default();
    context.deadline = Some(Instant::now() + 400 * MS);
    let said = context.scope(async { echo.unary(text("timeout")).await.unwrap() }).await;
    let left = timeout::parse(&said).unwrap();
    assert!(left <= 400 * MS && left > 200 * MS, "{left:?}");

    let mut request = Request::new(text("hang"));
    request.set_timeout(60 * MS);
    let status = echo.unary(request).await.unwrap_err();
    assert!(status.message().contains("the request's own time-out header"), "{status}");
    let status = echo.unary(text("hang")).await.unwrap_err();
    assert!(status.message().contains("700ms (config/prod.toml:7)"), "{status}");
}

#[tokio::test]
async fn statuses_of_the_server_arrive_as_they_are_and_judge_the_node() {
    let (addr, _server) = tonic_server().await;
    let channel = Registry::of([foreign("users-1", "grpc", addr)]).channel();
    let mut echo = client(&channel);
    assert_eq!(echo.unary(text("missing")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(channel.nodes()[0].failures, 0);
    let status = echo.unary(text("unavailable")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "asked to"));
    assert_eq!(channel.nodes()[0].failures, 1);
    let mut stream = echo.server(text("fail")).await.unwrap();
    assert_eq!(stream.message().await.unwrap().unwrap().text, "first");
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Internal);
    assert_eq!(channel.nodes()[0].failures, 2);
}

#[tokio::test]
async fn a_marked_unavailable_call_is_tried_on_another_instance() {
    let (one, _one) = tonic_server().await;
    let (two, _two) = tonic_server().await;
    let registry = Registry::of([foreign("users-1", "grpc", one), foreign("users-2", "grpc", two)]);
    let channel = registry.channel();
    let status = client(&channel.idempotent()).unary(text("unavailable")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "asked to"));
    let failures = || channel.nodes().iter().map(|node| node.failures).sum::<u32>();
    assert_eq!(failures(), 2, "both were asked");
    client(&channel).unary(text("unavailable")).await.unwrap_err();
    assert_eq!(failures(), 3, "not marked, asked once");
}

#[tokio::test]
async fn no_connection_is_unavailable_for_a_generated_client() {
    let channel = Registry::of([foreign("users-1", "grpc", refused().await)]).channel();
    let status = client(&channel).unary(text("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(CallError::of(&status).unwrap().kind(), CallErrorKind::Connect);
}

#[tokio::test]
async fn a_stream_outlives_the_clients_own_limit_and_the_channel_it_came_from() {
    let (addr, _server) = tonic_server().await;
    let registry = Registry::of([foreign("users-1", "grpc", addr)]);
    let channel = registry.channel_with(|config| config.timeout = Some((100 * MS).into()));
    let (say, said) = mpsc::channel(4);
    let mut answers = client(&channel).both(ReceiverStream::new(said)).await.unwrap();
    drop(channel);
    tokio::time::sleep(Duration::from_millis(250)).await;
    say.send(text("still here")).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().text, "still here");
}
