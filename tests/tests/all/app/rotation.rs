//! Certificates that are renewed under a service that runs.

use std::{fs, time::Duration};

use meshwork::App;
use meshwork_testkit::{certs::Authority, truth::eventually};
use meshwork_tests::{ENVIRONMENT, SERVICE, provider::Plan};
use tokio::time::sleep;

use super::rig::{LIMIT, actor};

/// The files are looked at no more often than this.
const LOOK: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_file_cut_short_is_told_once_and_callers_come_in_as_before() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("tests").unwrap();
    let (cert, key) = authority.server(&["127.0.0.1"]).unwrap().write(dir.path(), "service").unwrap();
    let plan = Plan::provider()
        .local(&dir.path().join("registry"))
        .service("tls.cert_file", cert.display().to_string())
        .service("tls.key_file", key.display().to_string());
    let provider = plan.start(actor()).await.unwrap();
    let trusted = authority.write(dir.path()).unwrap().display().to_string();
    // Each call on a connection of its own: it shakes hands.
    let asks = async || {
        let registry = dir.path().join("registry").display().to_string();
        let app = App::new().with_environment(ENVIRONMENT).with_config(format!(
            "[registry]\nuse = \"local\"\n[registry.local]\ndir = {registry:?}\n\
             [client.{SERVICE}.tls]\nca_file = {trusted:?}\n"
        ));
        let answer = app.channel(SERVICE).get("/who").send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 200);
    };
    let warnings = || {
        let log = provider.process().stderr();
        // Variables that tests are told of their servers by are none of the service's.
        let told = log.iter().filter(|line| line.contains("WARN") && !line.contains("variable ignored"));
        told.cloned().collect::<Vec<_>>()
    };
    asks().await;
    assert!(warnings().is_empty(), "{:?}", warnings());
    let whole = fs::read(&cert).unwrap();
    fs::write(&cert, &whole[..whole.len() / 2]).unwrap();
    for _ in 0..3 {
        sleep(LOOK).await;
        asks().await;
    }
    assert_eq!(warnings().len(), 1, "{:?}", warnings());
    assert!(
        warnings()[0].contains("service.pem") || warnings()[0].contains("service.tls"),
        "{:?}",
        warnings()
    );
    // What is whole again is taken, and said.
    let (renewed, _) = authority.server(&["127.0.0.1"]).unwrap().write(dir.path(), "service").unwrap();
    assert_eq!(renewed, cert);
    let taken = || async {
        asks().await;
        provider.process().stderr().iter().any(|line| line.contains("TLS files have changed"))
    };
    eventually(LIMIT, "the new one is taken", taken).await.unwrap();
    assert_eq!(warnings().len(), 1, "{:?}", warnings());
    assert_eq!(provider.stop(LIMIT).await.unwrap().code, 0);
}
