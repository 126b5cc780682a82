//! What stands between the listeners and the handlers: TLS, limits.

use std::path::Path;

use meshwork::Memory;

use crate::rig::{NAME, Running, app};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_none_is_a_mistake_that_names_its_key() {
    let app = app(&Memory::new()).with_config("[server]\ncritical_from = [\"ten\"]");
    let error = Running::launch(app).ended().await.unwrap_err();
    assert_eq!(error.code(), 2);
    assert!(format!("{error:?}").contains("server.critical_from"), "{error:?}");
}

#[cfg(not(feature = "tls"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_without_tls_says_so() {
    let _ = (Path::new(NAME), NAME);
    let app = app(&Memory::new()).with_config("[service.tls]\ncert_file = \"tls.pem\"");
    let error = Running::launch(app).ended().await.unwrap_err();
    assert!(format!("{error:?}").contains("--features tls"), "{error:?}");
}

#[cfg(feature = "tls")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_at_the_listener_is_announced_and_spoken() {
    let memory = Memory::new();
    let dir = tempfile::tempdir().unwrap();
    let (cert, key, ca) = certificate(dir.path());
    let tls = format!("[service.tls]\ncert_file = {cert:?}\nkey_file = {key:?}\n");
    let running = Running::start(app(&memory).with_config(tls)).await;
    let endpoint = running.handle.instance().unwrap().endpoints[0].to_string();
    assert!(endpoint.starts_with("https://127.0.0.1:"), "{endpoint}");
    let trusting = format!("[client.default.tls]\nca_file = {ca:?}\nserver_name = \"localhost\"\n");
    let channel = app(&memory).with_config(trusting).channel(NAME);
    assert_eq!(channel.get("/").send().await.unwrap().text().await.unwrap(), "hello");
    assert!(running.stop().await.is_clean());

    let half = app(&Memory::new()).with_config(format!("[service.tls]\ncert_file = {cert:?}\n"));
    let error = Running::launch(half).ended().await.unwrap_err();
    assert_eq!(error.code(), 2);
    assert!(format!("{error:?}").contains("[service.tls]"), "{error:?}");
}

/// A certificate for `localhost` that signs itself: its file, that of its key, and whom to trust.
#[cfg(feature = "tls")]
fn certificate(dir: &Path) -> (String, String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let cert = write("tls.pem", made.cert.pem());
    (cert.clone(), write("tls.key", made.signing_key.serialize_pem()), cert)
}
