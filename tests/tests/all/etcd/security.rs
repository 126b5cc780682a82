//! Certificates: the right ones, wrong ones, ended ones, and files that are rotated.
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up fails its test")]

use std::{fs, path::Path, time::Duration};

use meshwork_core::{ErrorChain, ErrorKind, RegistrationState};
use meshwork_registry_etcd::Etcd;
use meshwork_testkit::{
    certs::{Authority, Certificate},
    etcd,
    proxy::FaultProxy,
    truth::eventually,
};
use tokio::time;

use super::bench::{LONG, Opened, backend, instance, key_of, shows, told, until};

/// The files of a client.
struct Files {
    ca: std::path::PathBuf,
    cert: std::path::PathBuf,
    key: std::path::PathBuf,
}

impl Files {
    fn write(dir: &Path, authority: &Authority, client: &Certificate) -> Self {
        let (cert, key) = client.write(dir, "client").unwrap();
        Self { ca: authority.write(dir).unwrap(), cert, key }
    }

    /// The registry over `url`, with these files.
    fn backend(&self, url: impl Into<String>) -> Etcd {
        backend([url]).with_ca_file(&self.ca).with_client_certificate(&self.cert, &self.key)
    }
}

/// Why nothing is found.
async fn why(etcd: Etcd) -> String {
    let watch = Opened::new(etcd).watch("user");
    until(&watch, LONG, "the view says why", |view| view.staleness().cause().is_some()).await;
    ErrorChain(&**watch.latest().staleness().cause().unwrap()).to_string()
}

#[tokio::test]
async fn tls_needs_the_right_authority_the_right_name_and_our_certificate() {
    let etcd = etcd::Etcd::single().tls().start().await.unwrap();
    let (url, authority) = (etcd.endpoints().remove(0), etcd.authority().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), authority, &authority.client("users").unwrap());
    let opened = Opened::new(files.backend(&url));
    let registration = opened.announce(instance("user", 80)).await;
    shows(&opened.watch("user"), [registration.id().as_str()], LONG).await;
    let without_scheme = Opened::new(files.backend(url.trim_start_matches("https://")));
    shows(&without_scheme.watch("user"), [registration.id().as_str()], LONG).await;
    let named = Opened::new(files.backend(&url).with_server_name("etcd.test"));
    shows(&named.watch("user"), [registration.id().as_str()], LONG).await;

    let refused = async |etcd: Etcd| told(&Opened::new(etcd).watch("user"), LONG, ErrorKind::Denied).await;
    let said = refused(files.backend(&url).with_server_name("somebody.else")).await;
    assert!(said.contains("somebody.else"), "{said}");
    let other = tempfile::tempdir().unwrap();
    let stranger = Authority::new("stranger").unwrap();
    let said = refused(files.backend(&url).with_ca_file(stranger.write(other.path()).unwrap())).await;
    assert!(said.contains(&url) && said.contains("UnknownIssuer"), "{said}");
    // The member refuses us only after the handshake, so it may also just close.
    for client in [
        Some(stranger.client("users").unwrap()),
        Some(authority.client_for("users", Duration::ZERO).unwrap()),
        None,
    ] {
        let mut etcd = backend([&*url]).with_ca_file(&files.ca);
        if let Some(client) = &client {
            let (cert, key) = client.write(other.path(), "client").unwrap();
            etcd = etcd.with_client_certificate(cert, key);
        }
        println!("refused: {}", why(etcd).await);
    }
    registration.deregister().await.unwrap();
}

#[tokio::test]
async fn tls_at_a_plain_server_and_plain_text_at_a_tls_server_are_told_as_what_they_are() {
    let (plain, encrypted) = tokio::join!(etcd::Etcd::single().start(), etcd::Etcd::single().tls().start());
    let (plain, encrypted) = (plain.unwrap(), encrypted.unwrap());
    let ca = encrypted.dir().join("ca.pem");
    let url = plain.endpoints()[0].replace("http://", "https://");
    let said = why(backend([&*url]).with_ca_file(ca)).await;
    assert!(said.contains(&url) && said.contains("does it speak TLS"), "{said}");
    let url = encrypted.endpoints()[0].replace("https://", "http://");
    let said = why(backend([&*url])).await;
    assert!(said.contains(&url) && said.contains("wants https"), "{said}");
}

#[tokio::test]
async fn a_missing_or_useless_file_ends_the_start_and_names_key_and_file() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new("a").unwrap();
    let files = Files::write(dir.path(), &authority, &authority.client("users").unwrap());
    let (none, useless) = (dir.path().join("none.pem"), dir.path().join("useless.pem"));
    fs::write(&useless, "-----BEGIN CERTIFICATE-----\nhalf").unwrap();
    let other = authority.client("other").unwrap().write(dir.path(), "other").unwrap();
    let url = "https://127.0.0.1:1";
    for (etcd, key, file) in [
        (files.backend(url).with_ca_file(&none), "`ca_file` of etcd `tls`", &none),
        (files.backend(url).with_ca_file(&useless), "`ca_file` of etcd `tls`", &useless),
        (files.backend(url).with_client_certificate(&none, &files.key), "`cert_file` of etcd `tls`", &none),
        (files.backend(url).with_client_certificate(&files.cert, &none), "`key_file` of etcd `tls`", &none),
        (
            files.backend(url).with_client_certificate(&files.cert, &other.1),
            "`key_file` of etcd `tls`",
            &other.1,
        ),
    ] {
        let registration = Opened::new(etcd).register(instance("user", 80));
        let error = time::timeout(LONG, registration.live()).await.unwrap().unwrap_err();
        let said = ErrorChain(&*error).to_string();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{said}");
        assert!(said.contains(key) && said.contains(&*file.to_string_lossy()), "{said}");
    }
}

#[tokio::test]
async fn rotated_files_count_at_the_next_connection_and_broken_ones_never() {
    let etcd = etcd::Etcd::single().tls().start().await.unwrap();
    let authority = etcd.authority().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), authority, &authority.client("users").unwrap());
    let proxy = FaultProxy::start(etcd.member(0).addr()).await.unwrap();
    let etcd_over_proxy = files.backend(proxy.url().replace("http://", "https://"));
    let opened = Opened::new(etcd_over_proxy.with_denied_retry(Duration::from_secs(1)));
    let registration = opened.announce(instance("user", 80)).await;
    let watch = opened.watch("user");
    shows(&watch, [registration.id().as_str()], LONG).await;

    // In the middle of a rotation: a new certificate with the old key, then a key that is half there.
    let next = authority.client("users").unwrap();
    fs::write(&files.cert, &next.cert).unwrap();
    assert_eq!(proxy.traffic().connections, 1, "a connection that works is left alone");
    for key in [None, Some(&next.key[..next.key.len() / 2])] {
        if let Some(key) = key {
            fs::write(&files.key, key).unwrap();
        }
        proxy.cut().await.unwrap();
        let other = opened.announce(instance("user", 81)).await;
        shows(&watch, [registration.id().as_str(), other.id().as_str()], LONG).await;
        other.deregister().await.unwrap();
        shows(&watch, [registration.id().as_str()], LONG).await;
    }
    fs::write(&files.key, &next.key).unwrap();

    // Ended while we were connected: no way back until the files are new, and then there is one.
    authority.client_for("users", Duration::ZERO).unwrap().write(dir.path(), "client").unwrap();
    proxy.cut().await.unwrap();
    let state = registration.state();
    eventually(LONG, "we are refused", || async {
        matches!(*state.borrow(), RegistrationState::Lost { .. })
    })
    .await
    .unwrap();
    next.write(dir.path(), "client").unwrap();
    eventually(LONG, "it is live", || async { matches!(*state.borrow(), RegistrationState::Live) })
        .await
        .unwrap();
    shows(&watch, [registration.id().as_str()], LONG).await;
    until(&watch, LONG, "it is fresh", |view| view.staleness().is_fresh()).await;
    let key = key_of("user", registration.id().as_str());
    assert!(etcd.etcdctl(["get", &key, "--keys-only"]).await.unwrap().contains(&key));
}

#[tokio::test]
async fn the_common_name_of_our_certificate_may_be_our_user() {
    let tokens = etcd::Tokens::Simple(Duration::from_secs(3));
    let etcd = etcd::Etcd::single().tls().users(tokens).start().await.unwrap();
    etcd.make_user("orders", "not used", "/meshwork/").await.unwrap();
    let authority = etcd.authority().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path(), authority, &authority.client("orders").unwrap());
    let opened = Opened::new(files.backend(&etcd.endpoints()[0]));
    let registration = opened.announce(instance("user", 80)).await;
    shows(&opened.watch("user"), [registration.id().as_str()], LONG).await;
    let files = Files::write(dir.path(), authority, &authority.client("nobody").unwrap());
    let said =
        told(&Opened::new(files.backend(&etcd.endpoints()[0])).watch("user"), LONG, ErrorKind::Denied).await;
    println!("another common name: {said}");
}
