//! Health over HTTP and over gRPC.

use std::time::Duration;

use http::uri::PathAndQuery;
use meshwork_server::Services;
use tokio::time;
use tonic::{Code, Request, client::Grpc, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic_prost::ProstCodec;

use crate::{
    echo::Echo,
    support::{Fixture, LIMIT, get, raw, start, within},
};

async fn client(fixture: &Fixture) -> HealthClient<Channel> {
    let channel = Channel::from_shared(format!("http://{}", fixture.addr)).unwrap().connect().await.unwrap();
    HealthClient::new(channel)
}

fn of(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.into() }
}

#[tokio::test]
async fn readiness_over_http_names_what_is_missing() {
    let fixture = start(Services::new()).await;
    let answer = raw(fixture.addr, &get("/.meshwork/ready")).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""ready":true"#), "{answer}");
    fixture.health.set_ready("database", false);
    let answer = raw(fixture.addr, &get("/.meshwork/ready")).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains(r#""not_ready":["database"]"#), "{answer}");
    let answer = raw(fixture.addr, &get("/.meshwork/health")).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(raw(fixture.addr, &get("/.meshwork/else")).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn grpc_health_knows_the_process_and_its_services() {
    let fixture = start(Services::new().grpc_service(Echo)).await;
    let mut client = client(&fixture).await;
    for service in ["", "test.Echo"] {
        let answer = client.check(of(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    assert_eq!(client.check(of("test.Nobody")).await.unwrap_err().code(), Code::NotFound);
    fixture.health.set_service("test.Echo", false);
    let answer = client.check(of("test.Echo")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);
    assert_eq!(client.check(of("")).await.unwrap().into_inner().status(), ServingStatus::Serving);
    fixture.health.set_serving(false);
    assert_eq!(client.check(of("")).await.unwrap().into_inner().status(), ServingStatus::NotServing);
}

/// The answer to `List`, as the protocol has it.
#[derive(Clone, PartialEq, prost::Message)]
struct Listed {
    #[prost(map = "string, message", tag = "1")]
    statuses: std::collections::HashMap<String, HealthCheckResponse>,
}

#[tokio::test]
async fn grpc_health_lists_the_process_and_its_services() {
    let fixture = start(Services::new().grpc_service(Echo)).await;
    fixture.health.set_service("test.Echo", false);
    let channel = Channel::from_shared(format!("http://{}", fixture.addr)).unwrap().connect().await.unwrap();
    let list = async || {
        let mut grpc = Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static("/grpc.health.v1.Health/List");
        let codec = ProstCodec::<(), Listed>::default();
        let answer = grpc.unary(Request::new(()), path, codec).await.unwrap().into_inner();
        let mut all: Vec<_> = answer.statuses.iter().map(|(name, is)| (name.clone(), is.status())).collect();
        all.sort();
        all
    };
    let of = |name: &str, is| (name.to_owned(), is);
    assert_eq!(list().await, [of("", ServingStatus::Serving), of("test.Echo", ServingStatus::NotServing)]);
    fixture.health.set_service("test.Echo", true);
    fixture.health.set_serving(false);
    assert_eq!(list().await, [of("", ServingStatus::NotServing), of("test.Echo", ServingStatus::NotServing)]);
}

#[tokio::test]
async fn a_watch_follows_and_does_not_hold_up_the_drain() {
    let fixture = start(Services::new()).await;
    let mut client = client(&fixture).await;
    let mut watch = client.watch(of("late")).await.unwrap().into_inner();
    let mut next = async || time::timeout(LIMIT, watch.message()).await.expect("nothing came");
    assert_eq!(next().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    fixture.health.set_service("late", true);
    assert_eq!(next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    fixture.health.set_serving(false);
    assert_eq!(next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let report = fixture.serving.drain(within(LIMIT)).await;
    assert!(report.cut.is_empty() && report.took < Duration::from_secs(3), "{report:?}");
    assert_eq!(next().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn health_is_there_without_any_service() {
    let fixture = start(Services::new()).await;
    let channel = Channel::from_shared(format!("http://{}", fixture.addr)).unwrap().connect().await.unwrap();
    let mut grpc = Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = ProstCodec::<crate::echo::Text, crate::echo::Text>::default();
    let path = PathAndQuery::from_static("/test.Echo/Unary");
    let status = grpc.unary(Request::new(crate::echo::text("")), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(client(&fixture).await.check(of("")).await.is_ok());
}
