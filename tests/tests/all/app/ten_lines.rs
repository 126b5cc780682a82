//! The ten-line service over every registry of this build, on one port and on two.

use meshwork::{App, Etcd, Fixed, Local, Memory};
use meshwork_testkit::etcd::Etcd as Server;
use meshwork_tests::{SERVICE, http1};

use super::rig::{Running, app, orders, unnamed, users};

/// Serves both, asks one, which asks the other.
async fn works(users_app: App, orders_app: App) {
    let users = Running::start(users(users_app, "Ada")).await;
    let orders = Running::start(orders(orders_app)).await;
    asks(&orders).await;
    assert!(orders.stop().await.is_clean());
    assert!(users.stop().await.is_clean());
}

async fn asks(orders: &Running) {
    for path in ["/orders/7", "/who"] {
        let answer = http1::get(orders.addr(), path).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "Ada"), "{path}: {}", answer.head);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finds_the_other_by_memory() {
    let memory = Memory::new();
    works(app(SERVICE).with_registry(memory.clone()), app("orders").with_registry(memory)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finds_the_other_by_the_embedded_registry() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("registry");
    let there = || Local::at(&place);
    works(app(SERVICE).with_registry(there()), app("orders").with_registry(there())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finds_the_other_by_etcd_in_code_and_in_configuration() {
    let etcd = Server::single().start().await.unwrap();
    let in_code = app(SERVICE).with_registry(Etcd::new(etcd.endpoints()).with_env("test"));
    let table = format!("[registry]\nuse = \"etcd\"\n[registry.etcd]\nendpoints = {:?}\n", etcd.endpoints());
    works(in_code, app("orders").with_config(table)).await;
    let keys = etcd.etcdctl(["get", "--prefix", "/", "--keys-only"]).await.unwrap();
    assert_eq!(keys.trim(), "", "records are left after both have stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finds_the_other_in_a_static_list() {
    let nowhere = || "[registry]\nuse = \"none\"\n";
    let users = Running::start(users(app(SERVICE).with_config(nowhere()), "Ada")).await;
    let addr = users.addr();
    let list = Fixed::new().service(SERVICE, [format!("http://{addr}"), format!("grpc://{addr}")]).unwrap();
    let in_code = Running::start(orders(app("orders").with_registry(list))).await;
    asks(&in_code).await;
    in_code.stop().await;

    let table = format!(
        "[registry]\nuse = \"static\"\n[registry.static]\nservices = {{ users = [\"http://{addr}\", \"grpc://{addr}\"] }}\n"
    );
    let in_configuration = Running::start(orders(app("orders").with_config(table))).await;
    asks(&in_configuration).await;
    in_configuration.stop().await;
    users.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serves_grpc_on_a_port_of_its_own() {
    let memory = Memory::new();
    let two = unnamed()
        .with_config("[service]\nname = \"users\"\ngrpc = \"127.0.0.1:0\"\n")
        .with_registry(memory.clone());
    let users = Running::start(users(two, "Ada")).await;
    let addrs = users.handle.local_addrs();
    assert_eq!(addrs.len(), 2);
    let announced = users.handle.instance().unwrap();
    let endpoints: Vec<_> = announced.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(endpoints, [format!("http://{}", addrs[0]), format!("grpc://{}", addrs[1])]);

    let orders = Running::start(orders(app("orders").with_registry(memory))).await;
    asks(&orders).await;
    orders.stop().await;
    users.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reaches_targets_that_name_addresses_or_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("registry");
    let users = Running::start(users(app(SERVICE).with_registry(Local::at(&place)), "Ada")).await;
    let caller = app("caller").with_config("[registry]\nuse = \"none\"\n");
    let direct = format!("direct:///{}", users.addr());
    let local = format!("local:///{SERVICE}?path={}", place.display());
    for target in [direct, local] {
        let answer = caller.channel(&target).get("/who").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "Ada", "{target}");
    }
    users.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reaches_an_etcd_target_without_any_registry_of_its_own() {
    let etcd = Server::single().start().await.unwrap();
    let announced = app(SERVICE).with_registry(Etcd::new(etcd.endpoints()).with_env("test"));
    let users = Running::start(users(announced, "Ada")).await;
    let caller = app("caller").with_config("[registry]\nuse = \"none\"\n");
    let authority = etcd.endpoints()[0].trim_start_matches("http://").to_owned();
    let answer = caller.channel(&format!("etcd://{authority}/{SERVICE}")).get("/who").send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "Ada");
    users.stop().await;
}

#[tokio::test]
async fn answers_calls_inside_the_process() {
    use tower_service::Service;
    let mut service = users(app(SERVICE), "Ada").into_service().unwrap();
    let request = http::Request::get("/who").body(axum::body::Body::empty()).unwrap();
    let answer = service.call(request).await.unwrap();
    let body = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 1024).await.unwrap();
    assert_eq!(&body[..], b"Ada");
}
