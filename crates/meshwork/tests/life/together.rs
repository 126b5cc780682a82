//! Several apps in one runtime, and an app without a port.

use axum::{Router, body::Body, http::Request, routing::get};
use meshwork::{App, Memory, Phase, ServiceName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tower::ServiceExt;

use crate::rig::{LIMIT, Running, app, eventually};

fn named(name: &'static str, memory: &Memory) -> App {
    app(memory)
        .with_config(format!("[service]\nname = {name:?}"))
        .http(Router::new().route("/who", get(move || async move { name })))
}

async fn ready(running: &Running) -> bool {
    let mut peer = TcpStream::connect(running.handle.local_addr().unwrap()).await.unwrap();
    peer.write_all(b"GET /.meshwork/ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(LIMIT, peer.read_to_string(&mut answer)).await.unwrap().unwrap();
    answer.starts_with("HTTP/1.1 200")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_apps_have_names_ports_registries_and_ends_of_their_own() {
    let (orders_at, users_at) = (Memory::new(), Memory::new());
    let orders = Running::start(named("orders", &orders_at)).await;
    let users = Running::start(named("users", &users_at)).await;
    assert_ne!(orders.handle.local_addr(), users.handle.local_addr());
    let count = |memory: &Memory, name: &str| memory.instances(&ServiceName::new(name).unwrap()).len();
    assert_eq!((count(&orders_at, "orders"), count(&orders_at, "users")), (1, 0));
    assert_eq!((count(&users_at, "orders"), count(&users_at, "users")), (0, 1));

    // Readiness, stop and phase are of one only.
    let cache = orders.handle.readiness("cache");
    cache.set(false);
    assert_eq!((ready(&orders).await, ready(&users).await), (false, true));
    cache.set(true);
    assert!(orders.stop().await.is_clean());
    assert_eq!(users.handle.phase(), Phase::Serving);
    let users_channel = users.handle.channel("users").unwrap();
    assert_eq!(users_channel.get("/who").send().await.unwrap().text().await.unwrap(), "users");
    eventually("orders are gone", || count(&orders_at, "orders") == 0).await;
    assert!(users.stop().await.is_clean());
}

#[tokio::test]
async fn an_app_is_a_service_without_a_port_and_says_what_is_wrong_with_it() {
    let memory = Memory::new();
    let app = named("orders", &memory);
    let handle = app.handle();
    let service = app.into_service().unwrap();
    let ask = async |path: &str| {
        let request = Request::get(path).body(Body::empty()).unwrap();
        service.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    assert_eq!((ask("/who").await, ask("/nothing").await, ask("/.meshwork/ready").await), (200, 404, 200));
    handle.readiness("cache").set(false);
    assert_eq!(ask("/.meshwork/ready").await, 503);
    assert_eq!(memory.instances(&ServiceName::new("orders").unwrap()).len(), 0, "nothing is announced");

    let wrong = named("orders", &memory).with_config("[server]\ncritical_from = [\"ten\"]");
    assert!(format!("{:?}", wrong.into_service().unwrap_err()).contains("server.critical_from"));
    let wrong = named("orders", &memory).with_config("[sevrer]\nmax = 1");
    assert_eq!(wrong.into_service().unwrap_err().code(), 2);
}
