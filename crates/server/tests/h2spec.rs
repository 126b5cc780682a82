//! HTTP/2 as h2spec understands it: nothing fails at our port that does not fail at a bare hyper server too.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    env, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use axum::{Router, routing::any};
use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services};
use tokio::{net::TcpListener, process::Command};

/// How long h2spec waits for what a server must do, seconds: what fails only because the machine is busy would be
/// a failure that means nothing.
const PATIENCE: &str = "5";

/// What h2spec found.
struct Found {
    cases: usize,
    skipped: usize,
    failed: BTreeSet<String>,
}

impl Found {
    /// Reads its report: one element for each case, with another inside where it was skipped or failed.
    fn read(report: &str) -> Self {
        let mut found = Self { cases: 0, skipped: 0, failed: BTreeSet::new() };
        for case in report.split("<testcase ").skip(1) {
            let case = case.split("</testcase>").next().unwrap_or_default();
            let said =
                |name: &str| case.split_once(&format!("{name}=\""))?.1.split_once('"').map(|(text, _)| text);
            found.cases += 1;
            if case.contains("<skipped>") {
                found.skipped += 1;
            } else if case.contains("<failure>") || case.contains("<error>") {
                let name = |name| said(name).expect("every case has it");
                found.failed.insert(format!("{} {}", name("package"), name("classname")));
            }
        }
        found
    }
}

/// Runs all that it knows against `addr`.
async fn judge(h2spec: &Path, addr: SocketAddr, report: &Path) -> Found {
    let mut command = Command::new(h2spec);
    command.args([
        "--strict",
        "--timeout",
        PATIENCE,
        "--host",
        "127.0.0.1",
        "--port",
        &addr.port().to_string(),
    ]);
    command.arg("--junit-report").arg(report).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("h2spec runs");
    // It exits with 1 where anything fails; without a report it did not run.
    let said = String::from_utf8_lossy(&output.stdout);
    let report = fs::read_to_string(report).unwrap_or_else(|error| panic!("no report, {error}: {said}"));
    Found::read(&report)
}

/// A bare server of both protocols, as ours is: one that takes an unknown preface for HTTP/1 says so before it closes.
async fn hyper() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    // Both kinds of task end with the runtime of the test.
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer =
                |_: Request<Incoming>| async { Ok::<_, Infallible>(Response::new("hello".to_owned())) };
            let io = TokioIo::new(stream);
            tokio::spawn(async move {
                // What a case makes of its connection is h2spec's to judge.
                let _ended =
                    auto::Builder::new(TokioExecutor::new()).serve_connection(io, service_fn(answer)).await;
            });
        }
    });
    Ok(addr)
}

/// `MESHWORK_H2SPEC`, else the newest in the cache.
fn h2spec() -> PathBuf {
    if let Some(named) = env::var_os("MESHWORK_H2SPEC") {
        return named.into();
    }
    let home = || Some(Path::new(&env::var_os("HOME")?).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from).or_else(home);
    let entries = cache.and_then(|cache| fs::read_dir(cache.join("meshwork/servers")).ok());
    let found = entries.into_iter().flatten().flatten().filter(|entry| {
        entry.file_name().to_string_lossy().starts_with("h2spec-") && entry.path().join("h2spec").is_file()
    });
    let newest = found.map(|entry| entry.path().join("h2spec")).max();
    newest.expect("there is no h2spec: `cargo xtask servers h2spec` provides one")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn h2spec_finds_nothing_at_our_port_that_a_bare_hyper_has_not() {
    let (h2spec, dir) = (h2spec(), tempfile::tempdir().unwrap());
    let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let (own, bare) = (listener.local_addr(), hyper().await.unwrap());
    let services = Services::new().http(Router::new().route("/", any(|| async { "hello" })));
    let server = Server::new(ServerConfig::default(), Identity::new(), Health::new());
    let serving = server.serve(listener, services);
    let reports = [dir.path().join("own.xml"), dir.path().join("bare.xml")];
    let (own, bare) = tokio::join!(judge(&h2spec, own, &reports[0]), judge(&h2spec, bare, &reports[1]));
    for (name, found) in [("ours", &own), ("hyper", &bare)] {
        let Found { cases, skipped, failed } = found;
        println!("h2spec, {name}: {cases} cases, {skipped} skipped, {} failed", failed.len());
        failed.iter().for_each(|case| println!("    {case}"));
    }
    assert!(own.cases > 140 && own.cases == bare.cases, "{} cases, {} at hyper", own.cases, bare.cases);
    let ours: Vec<_> = own.failed.difference(&bare.failed).collect();
    assert!(ours.is_empty(), "only ours fail: {ours:#?}");
    assert!(own.skipped <= bare.skipped, "{} skipped, {} at hyper", own.skipped, bare.skipped);
    assert_eq!(serving.stats().panics_total(), 0);
    serving.abort();
}
