//! A generated client, unchanged, and plain HTTP over the same channel.

use std::time::Duration;

use meshwork::{App, CallError, Channel, Memory, OptionsExt};
use meshwork_client::CallErrorKind;
use meshwork_tests::{
    SERVICE,
    users::{Directory, ENDLESS, HANG, NOBODY},
};
use orders::users::{GetUser, User, users_client::UsersClient, users_server::UsersServer};
use tonic::{Code, Request, Status, metadata::MetadataValue};

use super::rig::{Running, app, users};

/// Some providers and a channel to them.
struct Stage {
    caller: App,
    providers: Vec<Running>,
}

impl Stage {
    async fn with(names: &[&str], config: &str) -> Self {
        let memory = Memory::new();
        let mut providers = Vec::new();
        for name in names {
            providers.push(Running::start(users(app(SERVICE).with_registry(memory.clone()), name)).await);
        }
        Self { caller: app("caller").with_config(config).with_registry(memory), providers }
    }

    fn channel(&self) -> Channel {
        self.caller.channel(SERVICE)
    }

    async fn end(self) {
        drop(self.caller);
        for provider in self.providers {
            provider.stop().await;
        }
    }
}

fn user(id: u64) -> User {
    User { id, name: "asked".to_owned() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_four_kinds_of_methods_work() {
    let stage = Stage::with(&["Ada"], "").await;
    let mut client = UsersClient::new(stage.channel());
    assert_eq!(client.get(GetUser { id: 7 }).await.unwrap().into_inner().name, "Ada");

    let mut watch = client.watch(GetUser { id: 8 }).await.unwrap().into_inner();
    for _ in 0..3 {
        assert_eq!(watch.message().await.unwrap().unwrap(), User { id: 8, name: "Ada".to_owned() });
    }
    drop(watch);

    let import = tokio_stream::iter((0..100).map(user));
    assert_eq!(client.import(import).await.unwrap().into_inner().count, 100);

    // Each question is asked only once the answer before it is here: both directions flow at the same time.
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    let questions = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut chat = client.chat(questions).await.unwrap().into_inner();
    for id in 0..10 {
        ask.send(user(id)).await.unwrap();
        assert_eq!(chat.message().await.unwrap().unwrap(), User { id, name: "Ada".to_owned() });
    }
    drop(ask);
    assert!(chat.message().await.unwrap().is_none());
    drop((chat, client));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_reaches_the_caller_as_the_handler_gave_it() {
    let stage = Stage::with(&["Ada"], "").await;
    let status = UsersClient::new(stage.channel()).get(GetUser { id: NOBODY }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "nobody has this id"));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interceptors_work_on_both_sides() {
    let memory = Memory::new();
    let check = |request: Request<()>| match request.metadata().get("authorization") {
        Some(token) if token == "token" => Ok(request),
        _ => Err(Status::unauthenticated("no token")),
    };
    let provider = app(SERVICE).with_registry(memory.clone());
    let directory = Directory::new("Ada", provider.handle().stopping());
    let users = Running::start(provider.grpc(UsersServer::with_interceptor(directory, check))).await;
    let channel = app("caller").with_registry(memory).channel(SERVICE);

    let status = UsersClient::new(channel.clone()).get(GetUser { id: 7 }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "no token"));
    let mut client = UsersClient::with_interceptor(channel, |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", MetadataValue::from_static("token"));
        Ok(request)
    });
    assert_eq!(client.get(GetUser { id: 7 }).await.unwrap().into_inner().name, "Ada");
    drop(client);
    users.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_goes_over_the_same_channel() {
    let stage = Stage::with(&["Ada"], "").await;
    let channel = stage.channel();
    let answer = channel.get("/who").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "Ada");
    let answer = channel.get("/nowhere").send().await.unwrap();
    assert_eq!(answer.status(), 404);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pinned_call_goes_to_that_instance_and_no_other() {
    let stage = Stage::with(&["Ada", "Barbara"], "").await;
    for (provider, name) in stage.providers.iter().zip(["Ada", "Barbara"]) {
        let id = provider.handle.instance().unwrap().id.clone();
        let mut by_id = UsersClient::new(stage.channel().to_instance(id));
        for _ in 0..5 {
            assert_eq!(by_id.get(GetUser { id: 7 }).await.unwrap().into_inner().name, name);
        }
        let by_address = stage.channel().to_addr(provider.addr()).get("/who").send().await.unwrap();
        assert_eq!(by_address.text().await.unwrap(), name);
    }
    let nobody = stage.channel().to_instance("users-nobody");
    let status = UsersClient::new(nobody).get(GetUser { id: 7 }).await.unwrap_err();
    let error = CallError::of(&status).expect("it is ours");
    assert_eq!(error.kind(), CallErrorKind::NoInstance);
    stage.end().await;
}

const LIMITS: &str = "[client.users]\ntimeout = \"20s\"\n\
    [client.users.methods.\"users.v1.Users/Get\"]\ntimeout = \"150ms\"\n";

/// What a caller is told of a limit that passed. The server keeps the same deadline and may be the first to say
/// so, in which case nobody names the limit; then it is asked again.
async fn told(mut ask: impl AsyncFnMut() -> Status) -> String {
    for _ in 0..20 {
        let status = ask().await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        if let Some(error) = CallError::of(&status) {
            assert_eq!(error.kind(), CallErrorKind::Deadline);
            return status.message().to_owned();
        }
    }
    panic!("the server was first 20 times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_smallest_limit_wins_and_the_error_says_where_it_was_set() {
    let stage = Stage::with(&["Ada"], LIMITS).await;
    let channel = stage.channel();
    let client = UsersClient::new(channel.clone());
    let ms = Duration::from_millis;

    let by_method = told(async || client.clone().get(GetUser { id: HANG }).await.unwrap_err()).await;
    assert!(by_method.contains("150ms") && by_method.contains("users.v1.Users/Get"), "{by_method}");

    let request = || Request::new(GetUser { id: HANG });
    let by_request =
        told(async || client.clone().get(request().options(|o| o.timeout(ms(60)))).await.unwrap_err());
    assert!(by_request.await.contains("60ms"));

    let bounded = UsersClient::new(channel.timeout(ms(70)));
    let by_channel = told(async || bounded.clone().get(request()).await.unwrap_err()).await;
    assert!(by_channel.contains("70ms"), "{by_channel}");

    let by_header = told(async || {
        let mut request = request();
        request.set_timeout(ms(80));
        client.clone().get(request).await.unwrap_err()
    });
    assert!(by_header.await.contains("80ms"));

    let error = channel.timeout(ms(90)).get("/hang").send().await;
    match error {
        Err(error) => {
            assert_eq!(error.kind(), CallErrorKind::Deadline, "{error}");
            assert!(error.to_string().contains("90ms"), "{error}");
        }
        Ok(answer) => assert_eq!(answer.status(), 504, "the server may be the first to say so"),
    }
    drop((client, bounded, channel));
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_outlives_the_limit_of_calls() {
    let stage = Stage::with(&["Ada"], "[client.users]\ntimeout = \"1s\"\n").await;
    let mut stream =
        UsersClient::new(stage.channel()).watch(GetUser { id: ENDLESS }).await.unwrap().into_inner();
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(1_500) {
        stream.message().await.unwrap().expect("it goes on, beyond 1 s");
    }
    drop(stream);
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_spread_over_all_and_survive_one_that_leaves() {
    let mut stage = Stage::with(&["Ada", "Barbara", "Grace"], "").await;
    let channel = stage.channel();
    let mut heard = std::collections::BTreeSet::new();
    let ask = || async {
        UsersClient::new(channel.clone()).get(GetUser { id: 7 }).await.unwrap().into_inner().name
    };
    for _ in 0..500 {
        heard.insert(ask().await);
        if heard.len() == 3 {
            break;
        }
    }
    assert_eq!(heard.len(), 3, "{heard:?}");
    let leaving = tokio::spawn(stage.providers.remove(0).stop());
    while !leaving.is_finished() {
        ask().await;
    }
    assert!(leaving.await.unwrap().is_clean());
    for _ in 0..10 {
        assert_ne!(ask().await, "Ada");
    }
    stage.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_waits_for_the_first_instance() {
    let memory = Memory::new();
    let caller = app("caller").with_registry(memory.clone());
    let channel = caller.channel(SERVICE).wait_for_ready(true).timeout(super::rig::LIMIT);
    let early = tokio::spawn(async move { UsersClient::new(channel).get(GetUser { id: 7 }).await });
    let users = Running::start(users(app(SERVICE).with_registry(memory), "Ada")).await;
    assert_eq!(early.await.unwrap().unwrap().into_inner().name, "Ada");
    users.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_nobody_serves_is_an_error_at_once() {
    let caller = app("caller").with_registry(Memory::new());
    let status = UsersClient::new(caller.channel(SERVICE)).get(GetUser { id: 7 }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let error = CallError::of(&status).expect("it is ours");
    assert_eq!(error.kind(), CallErrorKind::NoInstance);
    assert!(error.to_string().contains("`users`"), "{error}");
}
