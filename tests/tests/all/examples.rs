//! The examples, run as a reader of the README would.
#![expect(clippy::unwrap_used, reason = "what fails here fails its test")]

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use meshwork_testkit::{
    consul::Consul,
    etcd::Etcd,
    ports::Port,
    process::{Process, Program},
    truth::eventually,
};
use meshwork_tests::{built, http1};
use tokio::sync::Mutex;

const LIMIT: Duration = Duration::from_secs(60);

/// Two tests run the same executable, and one of them builds it anew: one at a time.
static QUICKSTART: Mutex<()> = Mutex::const_new(());

fn actor() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_actor"))
}

/// Building may take long, and must not hold up the other tests' tasks.
async fn executable(package: &'static str, name: &'static str) -> PathBuf {
    let built = tokio::task::spawn_blocking(move || built::executable(actor(), package, name));
    built.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quickstart_loses_nothing_over_etcd_and_consul_at_once() {
    let _alone = QUICKSTART.lock().await;
    let build = || built::executable_with_all_features(actor(), "quickstart");
    let path = tokio::task::spawn_blocking(build).await.unwrap().unwrap();
    let (etcd, consul) = tokio::join!(Etcd::single().start(), Consul::dev().start());
    let (etcd, consul) = (etcd.unwrap(), consul.unwrap());
    let registry = format!("dual=etcd={},consul={}", etcd.endpoints()[0], consul.url());
    let process = Program::new(path).args(["--for", "8", "--registry", &registry]).start().unwrap();
    let status = process.ended(LIMIT).await.unwrap();
    let said = process.stdout().join("\n");
    assert_eq!(status.code(), Some(0), "{said}\n{}", process.stderr().join("\n"));
    let sides =
        format!("registry: etcd {} (primary) and consul {} (secondary)", etcd.endpoints()[0], consul.url());
    assert!(said.contains(&sides), "{said}");
    let figures = said.lines().rfind(|line| line.starts_with("calls ")).expect("a line of figures");
    assert!(figures.contains("  failed 0  gone after "), "{figures}");
    // Whoever stopped has left both sides. (The one that was killed is in Consul until it is reaped.)
    let left = etcd.etcdctl(["get", "--prefix", "/meshwork/dev/instances/", "--keys-only"]).await.unwrap();
    assert!(!left.contains("greeter"), "{left}");
    let left = consul.first().must("GET", "/v1/agent/services", "").await.unwrap();
    assert!(left.matches("\"Service\":\"greeter\"").count() <= 1, "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quickstart_loses_nothing_and_ends_in_time() {
    let _alone = QUICKSTART.lock().await;
    let path = executable("quickstart", "quickstart").await;
    let began = Instant::now();
    let process = Program::new(path).args(["--for", "8"]).start().unwrap();
    let status = process.ended(LIMIT).await.unwrap();
    let said = process.stdout().join("\n");
    assert_eq!(status.code(), Some(0), "{said}\n{}", process.stderr().join("\n"));
    let figures = said.lines().rfind(|line| line.starts_with("calls ")).expect("a line of figures");
    assert!(figures.contains("  failed 0  gone after ") && figures.contains("  back after "), "{figures}");
    assert!(began.elapsed() < Duration::from_secs(30), "it took {:?}", began.elapsed());
    assert!(said.contains("next: "), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quickstart_without_a_feature_says_which_one_to_add() {
    let _alone = QUICKSTART.lock().await;
    let build = || built::executable_without_features(actor(), "quickstart", "quickstart");
    let path = tokio::task::spawn_blocking(build).await.unwrap().unwrap();
    let process = Program::new(path).args(["--registry", "etcd=http://127.0.0.1:1"]).start().unwrap();
    let status = process.ended(LIMIT).await.unwrap();
    let said = process.stderr().join("\n");
    assert!(!status.success());
    assert!(said.contains("--features etcd"), "{said}");
}

/// An example on a port of its own, over an embedded registry of this test.
fn example(path: &Path, port: &Port, registry: &Path) -> Process {
    Program::new(path)
        .dir(std::env::temp_dir())
        .env("MESHWORK_ENV", "test")
        .env("MESHWORK__SERVICE__HTTP", port.addr().to_string())
        .env("MESHWORK__REGISTRY__USE", "local")
        .env("MESHWORK__REGISTRY__LOCAL__DIR", registry)
        .start()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_asks_users() {
    let (orders, users) = (executable("orders", "orders").await, executable("orders", "users").await);
    let dir = tempfile::tempdir().unwrap();
    let registry = dir.path().join("registry");
    let (orders_port, users_port) = (Port::claim().unwrap(), Port::claim().unwrap());
    let users = example(&users, &users_port, &registry);
    let orders = example(&orders, &orders_port, &registry);
    eventually(LIMIT, "an order is answered", || async {
        http1::get(orders_port.addr(), "/orders/7").await.is_ok_and(|answer| answer.status == 200)
    })
    .await
    .unwrap_or_else(|error| panic!("{error}\n{}\n{}", orders.stderr().join("\n"), users.stderr().join("\n")));
    let answer = http1::get(orders_port.addr(), "/orders/7").await.unwrap();
    assert_eq!(answer.body, "order 7 of Barbara\n");
    for process in [orders, users] {
        assert_eq!(process.stop(LIMIT).await.unwrap().code(), Some(0), "{}", process.stderr().join("\n"));
    }
}

#[test]
fn documents_lead_to_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let in_docs = std::fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let documents = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"].map(|name| root.join(name));
    let mut links = 0;
    for document in documents.into_iter().chain(in_docs) {
        let text = std::fs::read_to_string(&document).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let path = document.with_file_name(target.split('#').next().unwrap());
            assert!(path.exists(), "{} leads to {target}, which is not there", document.display());
            links += 1;
        }
    }
    assert!(links > 30, "{links} links were found");
}
