//! TLS: whom the client believes, what it shows of itself, and how it says no.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use meshwork_client::{AttemptPhase, CallError, CallErrorKind, Channel, TlsConfig, TlsConnect};
use meshwork_core::{Delivered, Instance, Verdict};
use tokio::time;

use crate::{
    authority::{Authority, Signed, TlsPeer, write},
    echo::{client, text as message},
    peer::Peer,
    support::{Registry, foreign, native, text, until},
};

const BOTH: &[&str] = &["h2", "http/1.1"];
const PLACE: &str = "`[client.users.tls]`";
const ID: &str = "spiffe://test/prod/users";

/// A channel that trusts `authority`.
fn channel(
    instance: Instance,
    dir: &Path,
    authority: &Authority,
    change: impl FnOnce(&mut TlsConfig),
) -> Channel {
    let mut tls = TlsConfig::default();
    tls.ca_file = Some(authority.file(dir));
    change(&mut tls);
    Registry::of([instance])
        .channel_with(|config| config.connect = Arc::new(TlsConnect::new(PLACE, tls).unwrap()))
}

fn show(signed: &Signed, dir: &Path) -> impl FnOnce(&mut TlsConfig) + use<> {
    let (cert, key) = (write(dir, "cert.pem", &signed.cert), write(dir, "key.pem", &signed.key));
    move |tls| (tls.cert_file, tls.key_file) = (Some(cert), Some(key))
}

#[tokio::test]
async fn a_native_instance_is_called_and_confirmed_over_tls_and_proves_its_name() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let signed = authority.sign(&["127.0.0.1", "users.test", ID]);
    let peer = TlsPeer::start("users-1", &signed, BOTH, None).await;
    let channel = channel(native("users-1", "https", peer.addr), dir.path(), &authority, |_| {});
    assert_eq!(text(channel.get("/")).await.unwrap(), "users-1");
    assert_eq!(client(&channel).unary(message("hello")).await.unwrap(), "hello");
    let node = &channel.nodes()[0];
    assert_eq!(node.confirmed.as_ref().map(|id| id.as_str()), Some("users-1"));
    assert_eq!(node.peer.as_deref(), Some(ID));
    assert_eq!((peer.spoken().as_deref(), peer.accepted()), (Some("h2"), 1));
}

#[tokio::test]
async fn a_foreign_instance_is_spoken_to_as_it_chooses() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let signed = authority.sign(&["127.0.0.1", "users.test"]);
    for (offered, spoken) in [(BOTH, Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)] {
        let peer = TlsPeer::start("nginx", &signed, offered, None).await;
        let channel = channel(foreign("users-1", "https", peer.addr), dir.path(), &authority, |_| {});
        for _ in 0..5 {
            assert_eq!(text(channel.post("/").body("x")).await.unwrap(), "nginx");
        }
        assert_eq!((peer.spoken().as_deref(), peer.accepted()), (spoken, 1));
        assert_eq!(channel.nodes()[0].peer.as_deref(), Some("users.test"));
    }
}

#[tokio::test]
async fn grpc_over_tls_asks_for_http2_and_nothing_else() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let signed = authority.sign(&["127.0.0.1"]);
    let peer = TlsPeer::start("users-1", &signed, BOTH, None).await;
    let grpc = channel(foreign("users-1", "grpcs", peer.addr), dir.path(), &authority, |_| {});
    assert_eq!(client(&grpc).unary(message("hello")).await.unwrap(), "hello");

    let old = TlsPeer::start("users-1", &signed, &["http/1.1"], None).await;
    let grpc = channel(foreign("users-1", "grpcs", old.addr), dir.path(), &authority, |_| {});
    let status = client(&grpc).unary(message("hello")).await.unwrap_err();
    let error = CallError::of(&status).unwrap();
    assert!(error.to_string().contains("it speaks neither of the protocols offered"), "{error}");
}

#[tokio::test]
async fn the_configured_name_is_asked_for_instead_of_the_host() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let peer = TlsPeer::start("users-1", &authority.sign(&["users.test"]), BOTH, None).await;
    let named = |tls: &mut TlsConfig| tls.server_name = Some("users.test".into());
    let channel = channel(native("users-1", "https", peer.addr), dir.path(), &authority, named);
    assert_eq!(text(channel.get("/")).await.unwrap(), "users-1");
}

/// The error of a call to a peer that shows `signed`; and that it is not hammered.
async fn refusal(signed: &Signed, clients: Option<&Authority>, trusted: &Authority) -> CallError {
    let dir = tempfile::tempdir().unwrap();
    let peer = TlsPeer::start("users-1", signed, BOTH, clients).await;
    let channel = channel(native("users-1", "https", peer.addr), dir.path(), trusted, |_| {});
    let error = text(channel.get("/")).await.unwrap_err();
    assert_eq!(error.attempts().len(), 1, "{error}");
    assert_eq!(error.attempts()[0].phase, AttemptPhase::Connect);
    // Every call fails at once or waits for a dial: none of them makes one.
    for _ in 0..200 {
        let _failed = time::timeout(Duration::from_millis(2), text(channel.get("/"))).await;
    }
    let dials = peer.accepted();
    assert!(dials <= 4, "dialled {dials} times in about half a second");
    assert!(peer.spoken().is_none(), "no request was sent");
    error
}

#[tokio::test]
async fn each_refusal_says_what_to_do_and_nothing_was_delivered() {
    let authority = Authority::new();
    let good = authority.sign(&["127.0.0.1"]);
    let expired = authority.sign_with(&["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let early =
        authority.sign_with(&["127.0.0.1"], |params| params.not_before = rcgen::date_time_ymd(2200, 1, 1));
    let other = Authority::new();
    for (signed, clients, trusted, words) in [
        (
            &authority.sign(&["orders.test"]),
            None,
            &authority,
            "is for orders.test, not for `127.0.0.1`: set `server_name`",
        ),
        (&expired, None, &authority, "its certificate has expired: renew it"),
        (&early, None, &authority, "not valid yet: compare the clocks"),
        (&good, None, &other, "signed by nobody we trust: is `ca_file` the right one?"),
        (
            &good,
            Some(&authority),
            &authority,
            "asks for a certificate of ours: set `cert_file` and `key_file`",
        ),
    ] {
        let error = refusal(signed, clients, trusted).await;
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!((error.kind(), error.delivered()), (CallErrorKind::Connect, Delivered::No));
    }
}

#[tokio::test]
async fn an_instance_with_a_wrong_or_expired_certificate_costs_the_others_nothing() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let good = TlsPeer::start("users-1", &authority.sign(&["127.0.0.1"]), BOTH, None).await;
    let wrong = TlsPeer::start("users-2", &authority.sign(&["orders.test"]), BOTH, None).await;
    let expired = authority.sign_with(&["127.0.0.1"], |params| {
        params.not_before = rcgen::date_time_ymd(2019, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    });
    let expired = TlsPeer::start("users-3", &expired, BOTH, None).await;
    let mut tls = TlsConfig::default();
    tls.ca_file = Some(authority.file(dir.path()));
    let peers = [("users-1", good.addr), ("users-2", wrong.addr), ("users-3", expired.addr)];
    let channel = Registry::of(peers.map(|(name, addr)| native(name, "https", addr)))
        .channel_with(|config| config.connect = Arc::new(TlsConnect::new(PLACE, tls).unwrap()));
    for _ in 0..50 {
        assert_eq!(text(channel.post("/")).await.unwrap(), "users-1");
    }
    let nodes = channel.nodes();
    assert_eq!((nodes[0].failures, nodes[0].connects, good.accepted()), (0, 1, 1));
    assert!(wrong.spoken().is_none() && expired.spoken().is_none(), "no request was sent");
}

#[tokio::test]
async fn a_certificate_of_ours_that_the_peer_does_not_take_is_named() {
    let (dir, authority, other) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let peer = TlsPeer::start("users-1", &authority.sign(&["127.0.0.1"]), BOTH, Some(&authority)).await;
    let ours = show(&other.sign(&["us.test"]), dir.path());
    let channel = channel(native("users-1", "https", peer.addr), dir.path(), &authority, ours);
    let error = text(channel.get("/")).await.unwrap_err();
    assert!(error.to_string().contains("it refused our certificate (`cert_file`)"), "{error}");
    assert_eq!((error.kind(), error.delivered()), (CallErrorKind::Connect, Delivered::No));
}

#[tokio::test]
async fn what_the_configuration_lacks_is_named() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let plain = Peer::native("users-1").await;
    let of = |change: fn(&mut TlsConfig)| {
        channel(native("users-1", "https", plain.addr), dir.path(), &authority, change)
    };
    for (channel, words) in [
        (of(|_| {}), "it does not answer in TLS: is its scheme right?"),
        (
            of(|tls| tls.ca_file = Some("/nowhere/ca.pem".into())),
            "reading `ca_file` of `[client.users.tls]` (/nowhere/ca.pem)",
        ),
        (
            of(|tls| tls.ca_file = Some("/dev/zero".into())),
            "reading `ca_file` of `[client.users.tls]` (/dev/zero)",
        ),
        (
            Registry::of([native("users-1", "https", plain.addr)]).channel(),
            "say in `[client.<service>.tls]` whom to trust",
        ),
    ] {
        let error = text(channel.get("/")).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(error.delivered(), Delivered::No);
    }
    assert_eq!(plain.requests(), 0);
    let refused = |change: fn(&mut TlsConfig)| {
        let mut tls = TlsConfig::default();
        change(&mut tls);
        TlsConnect::new(PLACE, tls).unwrap_err().to_string()
    };
    assert!(refused(|tls| tls.cert_file = Some("cert.pem".into())).contains("it takes both"));
    assert!(refused(|tls| tls.server_name = Some("no name".into())).contains("`server_name` of"));
}

/// What was logged on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn warnings(&self) -> usize {
        let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        log.lines().filter(|line| line.contains(" WARN ")).count()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_rotated_certificate_is_shown_and_a_broken_one_never_with_one_warning() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);

    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let peer = TlsPeer::start("users-1", &authority.sign(&["127.0.0.1"]), BOTH, Some(&authority)).await;
    let (first, second) = (authority.sign(&["first.test"]), authority.sign(&["second.test"]));
    let ours = show(&first, dir.path());
    let channel = channel(native("users-1", "https", peer.addr), dir.path(), &authority, ours);
    assert_eq!(text(channel.get("/")).await.unwrap(), "users-1");

    // Reconnects, more than once, after the files may be looked at again.
    let reconnect = async || {
        for _ in 0..2 {
            time::sleep(Duration::from_millis(300)).await;
            let before = peer.shown().len();
            peer.cut();
            until("it is connected again", || peer.shown().len() > before).await;
            assert_eq!(text(channel.get("/")).await.unwrap(), "users-1");
        }
        peer.shown().last().cloned().unwrap()
    };
    let old = reconnect().await;
    let half = |text: &str| text[..text.len() / 2].to_owned();
    for (name, broken) in
        [("cert.pem", half(&second.cert)), ("cert.pem", second.cert.clone()), ("cert.pem", String::new())]
    {
        let before = log.warnings();
        write(dir.path(), name, &broken);
        assert_eq!(reconnect().await, old, "the last good certificate stays");
        assert_eq!(log.warnings(), before + 1);
        // Whole again, so that the next one is news.
        write(dir.path(), "cert.pem", &first.cert);
        assert_eq!(reconnect().await, old);
    }
    write(dir.path(), "cert.pem", &second.cert);
    write(dir.path(), "key.pem", &second.key);
    assert_ne!(reconnect().await, old);
    std::fs::remove_file(dir.path().join("key.pem")).unwrap();
    assert_ne!(reconnect().await, old, "a file that is away for a moment changes nothing");
}

#[tokio::test]
async fn nothing_goes_in_the_clear_to_a_service_whose_tls_is_configured() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (plain, tls) = (
        Peer::native("users-1").await,
        TlsPeer::start("users-1", &authority.sign(&["127.0.0.1"]), BOTH, None).await,
    );
    let mut record = native("users-1", "http", plain.addr);
    let only_plain = channel(record.clone(), dir.path(), &authority, |_| {});
    let error = text(only_plain.get("/")).await.unwrap_err();
    assert!(error.to_string().contains("1 without an endpoint that may be called"), "{error}");
    record.endpoints.push(format!("https://{}", tls.addr).parse().unwrap());
    let both = channel(record, dir.path(), &authority, |_| {});
    assert_eq!(text(both.get("/")).await.unwrap(), "users-1");
    assert_eq!((plain.connections(), tls.accepted()), (0, 1));
}
