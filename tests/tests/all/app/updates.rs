//! Records that change while their process serves: weight, labels, status. Clients follow without a new connection.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, extract::ConnectInfo, routing::get};
use meshwork::{App, Channel, Readiness};
use meshwork_testkit::{consul::Consul, etcd::Etcd, truth::eventually};
use meshwork_tests::SERVICE;

use super::rig::{LIMIT, Running, app};

/// A provider that counts its callers.
struct Provider {
    running: Running,
    peers: Arc<Mutex<HashSet<SocketAddr>>>,
    part: Readiness,
}

impl Provider {
    async fn start(registry: &str) -> Self {
        let peers: Arc<Mutex<HashSet<SocketAddr>>> = Arc::default();
        let seen = Arc::clone(&peers);
        let peer = get(move |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
            seen.lock().unwrap().insert(peer);
        });
        let delays = "[service.readiness]\nloss_delay = \"20ms\"\nreturn_delay = \"20ms\"\n";
        let app = app(SERVICE).with_config(registry).with_config(delays);
        let part = app.handle().readiness("cache");
        part.set(true);
        let running = Running::start(app.http(Router::new().route("/peer", peer))).await;
        Self { running, peers, part }
    }

    fn id(&self) -> String {
        self.running.handle.instance().unwrap().id.to_string()
    }
}

/// What the client knows of an instance: status, weight, the label `turn`.
fn known(channel: &Channel, id: &str) -> Option<(String, u16, String)> {
    let nodes = channel.nodes();
    let record = &nodes.iter().find(|node| node.instance.id.as_str() == id)?.instance;
    let label = record.labels.get("turn").unwrap_or_default().to_owned();
    Some((record.status.as_str().to_owned(), record.weight, label))
}

async fn knows(channel: &Channel, id: &str, status: &str, weight: u16, label: &str) {
    let wanted = Some((status.to_owned(), weight, label.to_owned()));
    let what = format!("the client knows {wanted:?}, but {:?}", known(channel, id));
    eventually(LIMIT, &what, || async { known(channel, id) == wanted }).await.unwrap();
}

/// So many calls, none of which may fail.
async fn calls(channel: &Channel, count: usize) {
    for _ in 0..count {
        assert_eq!(channel.get("/peer").send().await.unwrap().status(), 200);
    }
}

async fn follows(registry: &str) {
    let (ada, eve) = (Provider::start(registry).await, Provider::start(registry).await);
    let caller: App =
        app("caller").with_config(registry).with_config("[client.default]\nmax_connections = 1");
    let channel = caller.channel(SERVICE);
    let (first, id) = (eve.id(), ada.id());
    calls(&channel, 1).await;
    for provider in [&first, &id] {
        knows(&channel, provider, "up", 100, "").await;
        assert_eq!(channel.to_instance(provider).get("/peer").send().await.unwrap().status(), 200);
    }
    for (turn, weight) in [7, 65_535, 50].into_iter().enumerate() {
        ada.running.handle.update(move |instance| {
            instance.weight = weight;
            instance.labels.set("turn", turn.to_string());
        });
        knows(&channel, &id, "up", weight, &turn.to_string()).await;
        calls(&channel, 20).await;
    }
    for _ in 0..2 {
        ada.part.set(false);
        knows(&channel, &id, "unready", 50, "2").await;
        ada.peers.lock().unwrap().clear();
        calls(&channel, 20).await;
        assert!(ada.peers.lock().unwrap().is_empty(), "nothing new goes to who is not ready");
        ada.part.set(true);
        knows(&channel, &id, "up", 50, "2").await;
        let pinned = channel.to_instance(&id);
        assert_eq!(pinned.get("/peer").send().await.unwrap().status(), 200);
    }
    for node in channel.nodes() {
        assert_eq!((node.connects, node.opened), (1, 1), "{node:?}");
    }
    assert_eq!([&ada, &eve].map(|provider| provider.peers.lock().unwrap().len()), [1, 1]);
    for provider in [ada, eve] {
        assert!(provider.running.stop().await.is_clean());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_record_reaches_clients_over_etcd_without_a_new_connection() {
    let etcd = Etcd::single().start().await.unwrap();
    follows(&format!("[registry]\nuse = \"etcd\"\netcd.endpoints = {:?}\n", etcd.endpoints())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_record_reaches_clients_over_consul_without_a_new_connection() {
    let consul = Consul::dev().start().await.unwrap();
    follows(&format!("[registry]\nuse = \"consul\"\nconsul.address = {:?}\n", consul.url())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_record_reaches_clients_over_a_directory_without_a_new_connection() {
    let dir = tempfile::tempdir().unwrap();
    follows(&format!("[registry]\nuse = \"local\"\nlocal.dir = {:?}\n", dir.path())).await;
}
