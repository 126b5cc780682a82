//! Files that come, change and are cut short.
#![expect(clippy::unwrap_used, reason = "a test says by a panic that it failed")]

use std::{cell::Cell, fs, path::Path, sync::Arc, time::Duration};

use meshwork_tls::{ClientTls, ServerTls, ServerTlsConfig, TlsConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tracing::{Event, Level, Metadata, Subscriber, span};

/// The time after which files are looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(260);

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.renew();
        folder
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    /// A new authority, and a pair that it signed.
    fn renew(&self) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["users.test".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &ca).unwrap();
        for (name, pem) in [("ca", ca.pem()), ("cert", cert.pem()), ("key", key.serialize_pem())] {
            fs::write(self.path(name), pem).unwrap();
        }
    }

    fn client(&self) -> TlsConfig {
        let mut config = TlsConfig::default();
        config.ca_file = Some(self.path("ca"));
        config.cert_file = Some(self.path("cert"));
        config.key_file = Some(self.path("key"));
        config
    }

    fn server(&self) -> ServerTlsConfig {
        let mut config = ServerTlsConfig::default();
        config.cert_file = Some(self.path("cert"));
        config.key_file = Some(self.path("key"));
        config.client_ca_file = Some(self.path("ca"));
        config
    }
}

thread_local! {
    static WARNINGS: Cell<u32> = const { Cell::new(0) };
}

/// Counts warnings, for each test its own: a test is a thread.
struct Warnings;

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &Event<'_>) {
        WARNINGS.set(WARNINGS.get() + 1);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

fn cut_short(path: &Path) {
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() / 2]).unwrap();
}

#[tokio::test]
async fn files_that_stay_the_same_are_made_into_something_once() {
    let folder = Folder::new();
    let tls = ClientTls::new("`[x.tls]`", folder.client()).unwrap();
    let first = tls.current().await.unwrap();
    tokio::time::sleep(LOOK_AGAIN).await;
    assert!(Arc::ptr_eq(&first, &tls.current().await.unwrap()));
}

#[tokio::test]
async fn rotated_files_count_from_the_next_time_they_are_looked_at() {
    let folder = Folder::new();
    let tls = ServerTls::new("`[x.tls]`", folder.server(), &[b"h2"]).unwrap();
    let first = tls.current().await.unwrap();
    assert_eq!(first.alpn_protocols, [b"h2".to_vec()]);
    folder.renew();
    tokio::time::sleep(LOOK_AGAIN).await;
    assert!(!Arc::ptr_eq(&first, &tls.current().await.unwrap()));
}

#[tokio::test]
async fn a_file_cut_short_in_a_rotation_leaves_the_last_good_ones() {
    for name in ["ca", "cert", "key"] {
        let folder = Folder::new();
        let tls = ClientTls::new("`[x.tls]`", folder.client()).unwrap();
        let first = tls.current().await.unwrap();
        cut_short(&folder.path(name));
        tokio::time::sleep(LOOK_AGAIN).await;
        assert!(Arc::ptr_eq(&first, &tls.current().await.unwrap()), "{name}");
        folder.renew();
        tokio::time::sleep(LOOK_AGAIN).await;
        assert!(!Arc::ptr_eq(&first, &tls.current().await.unwrap()), "{name}");
    }
}

#[tokio::test]
async fn files_that_never_were_good_are_named_with_their_key() {
    for (name, key) in [("ca", "ca_file"), ("cert", "cert_file"), ("key", "key_file")] {
        let folder = Folder::new();
        cut_short(&folder.path(name));
        let tls = ClientTls::new("`[x.tls]`", folder.client()).unwrap();
        let said = tls.current().await.unwrap_err().to_string();
        assert!(said.contains(key) && said.contains("`[x.tls]`"), "{said}");
        fs::remove_file(folder.path(name)).unwrap();
        let said = tls.current().await.unwrap_err().to_string();
        assert!(said.contains(&*folder.path(name).to_string_lossy()), "{said}");
    }
}

#[tokio::test]
async fn a_key_of_another_certificate_is_refused() {
    let (folder, other) = (Folder::new(), Folder::new());
    fs::copy(other.path("key"), folder.path("key")).unwrap();
    let client = ClientTls::new("`[x.tls]`", folder.client()).unwrap();
    let said = client.current().await.unwrap_err().to_string();
    assert!(said.contains("is not the key of"), "{said}");
    let server = ServerTls::new("`[x.tls]`", folder.server(), &[]).unwrap();
    let said = server.current().await.unwrap_err().to_string();
    assert!(said.contains("is not the key of"), "{said}");
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_any_file_is_read() {
    let mut half = TlsConfig::default();
    half.cert_file = Some("cert".into());
    assert!(ClientTls::new("`[x.tls]`", half).unwrap_err().to_string().contains("it takes both"));
    let mut name = TlsConfig::default();
    name.server_name = Some("no name".to_owned());
    assert!(ClientTls::new("`[x.tls]`", name).unwrap_err().to_string().contains("server_name"));
    let none = ServerTls::new("`[x.tls]`", ServerTlsConfig::default(), &[]);
    assert!(none.unwrap_err().to_string().contains("needs both"));
}

#[tokio::test]
async fn a_directory_is_no_file() {
    let folder = Folder::new();
    fs::remove_file(folder.path("ca")).unwrap();
    fs::create_dir(folder.path("ca")).unwrap();
    let tls = ClientTls::new("`[x.tls]`", folder.client()).unwrap();
    assert!(tls.current().await.unwrap_err().to_string().contains("ca_file"));
}

#[tokio::test]
async fn a_rotation_in_many_steps_is_one_warning() {
    let folder = Folder::new();
    tracing::subscriber::set_global_default(Warnings).unwrap();
    let tls = ClientTls::new("`[x.tls]`", folder.client()).unwrap();
    tls.current().await.unwrap();
    for rotation in 1..=2 {
        for name in ["cert", "key"] {
            cut_short(&folder.path(name));
            tokio::time::sleep(LOOK_AGAIN).await;
            tls.current().await.unwrap();
        }
        fs::remove_file(folder.path("cert")).unwrap();
        tokio::time::sleep(LOOK_AGAIN).await;
        tls.current().await.unwrap();
        assert_eq!(WARNINGS.get(), rotation);
        folder.renew();
        tokio::time::sleep(LOOK_AGAIN).await;
        tls.current().await.unwrap();
    }
    assert_eq!(WARNINGS.get(), 2);
}
