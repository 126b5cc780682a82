//! Server reflection, asked by a real client.

use std::{convert::Infallible, future::Ready, task};

use http::{Request, Response};
use meshwork::{App, Memory};
use prost::Message;
use prost_types::{
    DescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, ServiceDescriptorProto,
};
use tonic::{Code, Status, body::Body, server::NamedService, transport::Channel};
use tonic_reflection::pb::{v1, v1alpha};
use tower_service::Service;

use crate::rig::{LIMIT, Running, app};

/// A service without a method that anybody calls here.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl Service<Request<Body>> for Echo {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _request: Request<Body>) -> Self::Future {
        std::future::ready(Ok(Status::unimplemented("nobody calls").into_http()))
    }
}

/// What a build script writes for `package {package}; service Echo {{ rpc Say(Words) returns (Words); }}`.
fn descriptors(package: &str) -> Vec<u8> {
    let words = DescriptorProto { name: Some("Words".into()), ..Default::default() };
    let named = || Some(format!(".{package}.Words"));
    let say = MethodDescriptorProto {
        name: Some("Say".into()),
        input_type: named(),
        output_type: named(),
        ..Default::default()
    };
    let echo = ServiceDescriptorProto { name: Some("Echo".into()), method: vec![say], options: None };
    let file = FileDescriptorProto {
        name: Some(format!("{package}.proto")),
        package: Some(package.into()),
        message_type: vec![words],
        service: vec![echo],
        ..Default::default()
    };
    FileDescriptorSet { file: vec![file] }.encode_to_vec()
}

fn described() -> App {
    // The second set describes a service that this process does not serve.
    app(&Memory::new()).grpc(Echo).reflection(descriptors("test")).reflection(descriptors("other"))
}

async fn connect(running: &Running) -> Channel {
    let addr = running.handle.local_addr().unwrap();
    Channel::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap()
}

/// The services that are listed.
async fn listed(channel: Channel) -> Result<Vec<String>, Status> {
    use v1::{server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel);
    let ask = v1::ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = client.server_reflection_info(tokio_stream::iter([ask])).await?.into_inner();
    match answers.message().await?.unwrap().message_response.unwrap() {
        MessageResponse::ListServicesResponse(list) => {
            Ok(list.service.into_iter().map(|service| service.name).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_are_told_in_both_versions_health_included() {
    let running = Running::start(described()).await;
    let channel = connect(&running).await;
    let mut names = listed(channel.clone()).await.unwrap();
    names.sort();
    let health = "grpc.health.v1.Health";
    let (own, older) = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection");
    assert_eq!(names, [health, own, older, "test.Echo"]);

    use v1alpha::{server_reflection_request::MessageRequest, server_reflection_response::MessageResponse};
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    for symbol in ["test.Echo", health] {
        let ask = v1alpha::ServerReflectionRequest {
            message_request: Some(MessageRequest::FileContainingSymbol(symbol.into())),
            ..Default::default()
        };
        let answers = client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap();
        match answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap() {
            MessageResponse::FileDescriptorResponse(files) => {
                let file = FileDescriptorProto::decode(&files.file_descriptor_proto[0][..]).unwrap();
                assert!(symbol.starts_with(file.package()), "{symbol}: {file:?}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(running.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outside_of_development_it_is_asked_for() {
    let production = || described().with_environment("prod").with_config("[service]\nhttp = \"127.0.0.1:0\"");
    let cases = [
        (production(), false),
        (production().with_config("[service]\nreflection = true"), true),
        (described().with_config("[service]\nreflection = false"), false),
    ];
    for (app, told) in cases {
        let running = Running::start(app).await;
        let answer = listed(connect(&running).await).await;
        match told {
            true => assert_eq!(answer.unwrap().len(), 4),
            false => assert_eq!(answer.unwrap_err().code(), Code::Unimplemented),
        }
        running.stop().await;
    }
    let error = Running::launch(described().reflection(b"no protobuf")).ended().await.unwrap_err();
    assert_eq!(error.code(), 2);
    assert!(format!("{error:?}").contains("reflecting.rs:"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_that_stays_connected_does_not_hold_the_stop_up() {
    let running = Running::start(described()).await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(connect(&running).await);
    let (ask, asked) = tokio::sync::mpsc::channel(1);
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest { message_request: Some(list), ..Default::default() };
    ask.send(request).await.unwrap();
    let requests = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().is_some());
    let report = running.stop().await;
    // Else it would be cut at the deadline of 3 s.
    assert!(report.is_clean() && report.took < std::time::Duration::from_millis(2_500), "{report}");
    let ended = tokio::time::timeout(LIMIT, answers.message()).await.unwrap();
    assert!(ended.unwrap().is_none(), "a clear end");
    drop(ask);
}
