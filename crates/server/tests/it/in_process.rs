//! Services called without a socket.

use std::{convert::Infallible, net::SocketAddr};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{HeaderValue, Request, Response, StatusCode},
    routing::{get, post},
};
use http_body_util::BodyExt;
use meshwork_core::Context;
use meshwork_server::{Health, Identity, InProcess, Services};
use tower::ServiceExt;

use crate::{echo::Echo, support::config};

async fn panics() -> &'static str {
    panic!("asked to")
}

async fn context() -> String {
    format!("{:?} {}", Context::current().lane, Context::current().deadline.is_some())
}

fn service(health: &Health) -> InProcess {
    let router = Router::new()
        .route("/", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
        .route("/panic", get(panics))
        .route("/context", get(context))
        .route("/hang", get(std::future::pending::<String>))
        .route("/count", post(|body: String| async move { body.len().to_string() }));
    let mark = axum::middleware::map_response(|mut answer: Response<Body>| async move {
        answer.headers_mut().insert("x-mark", HeaderValue::from_static("here"));
        answer
    });
    let services = Services::new().http(router).grpc_service(Echo).layer(mark);
    let settings = config(|config| config.max_body_bytes = Some(8));
    InProcess::new(settings, Identity::new(), health.clone(), services)
}

async fn ask(service: &InProcess, request: Request<Body>) -> (Response<()>, String) {
    let answer: Result<_, Infallible> = service.clone().oneshot(request).await;
    let (head, body) = answer.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(head, ()), String::from_utf8_lossy(&body).into_owned())
}

fn to(path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let request =
        headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
    request.body(Body::empty()).unwrap()
}

#[tokio::test]
async fn what_holds_at_a_port_holds_without_one() {
    let health = Health::new();
    let service = service(&health);
    let (head, body) = ask(&service, to("/", &[])).await;
    assert_eq!((head.status(), &*body), (StatusCode::OK, "127.0.0.1:0"));
    assert_eq!(head.headers()["x-mark"], "here");

    let (head, _) = ask(&service, to("/panic", &[])).await;
    assert_eq!(head.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let calls = [("meshwork-lane", "blue"), ("meshwork-timeout", "5S")];
    assert_eq!(ask(&service, to("/context", &calls)).await.1, "Some(\"blue\") true");
    let (head, _) = ask(&service, to("/hang", &[("meshwork-timeout", "50m")])).await;
    assert_eq!(head.status(), StatusCode::GATEWAY_TIMEOUT);
    let large = Request::post("/count").body(Body::from("more than eight")).unwrap();
    assert_eq!(ask(&service, large).await.0.status(), StatusCode::PAYLOAD_TOO_LARGE);

    let grpc = [("content-type", "application/grpc")];
    let (head, _) = ask(&service, to("/test.Echo/Nothing", &grpc)).await;
    assert_eq!(head.headers()["grpc-status"], "12");
    assert_eq!(ask(&service, to("/.meshwork/health", &[])).await.0.status(), StatusCode::OK);
    let ready = async || ask(&service, to("/.meshwork/ready", &[])).await.0.status();
    assert_eq!(ready().await, StatusCode::SERVICE_UNAVAILABLE);
    health.set_serving(true);
    assert_eq!(ready().await, StatusCode::OK);
}
