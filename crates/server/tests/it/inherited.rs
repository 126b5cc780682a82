//! Sockets that a process is started with.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::{Router, routing::get as route_get};
use meshwork_server::{Inherited, ServerConfig, Services};
use tokio::time;

use crate::support::{get, raw, start_on, until, within};

const CHILD: &str = "MESHWORK_TEST_INHERITED";

/// Starts this test in a process of its own, with `socket` as its first and only one.
fn spawn(socket: &TcpListener, says: &str) -> Child {
    // The shell moves it to where the convention has it, and becomes the test.
    let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=users.http; \
         exec \"$0\" --exact inherited::a_socket_is_handed_over_and_nobody_is_refused_between_two_processes";
    Command::new("sh")
        .args(["-c", script])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, says)
        .stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn a_socket_is_handed_over_and_nobody_is_refused_between_two_processes() {
    if let Ok(says) = std::env::var(CHILD) {
        return serve_one(says).await;
    }
    assert!(Inherited::take("users").unwrap().is_empty(), "started without any");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr: SocketAddr = socket.local_addr().unwrap();
    for says in ["first", "second"] {
        // It waits in the socket until there is a process.
        let asked = tokio::spawn(async move { raw(addr, &get("/")).await });
        time::sleep(Duration::from_millis(20)).await;
        let mut child = spawn(&socket, says);
        let answer = asked.await.unwrap();
        assert!(answer.ends_with(&format!("{says} http")), "{answer}");
        let ended = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
        assert!(ended.success());
    }
}

/// Serves what it was started with, until it has answered once.
async fn serve_one(says: String) {
    assert!(Inherited::take("orders").unwrap().is_empty(), "it is for another");
    let mut sockets = Inherited::take("users").unwrap();
    let Inherited { name, listener, .. } = sockets.remove(0);
    assert!(sockets.is_empty() && std::env::var_os("LISTEN_FDS").is_none());
    let text = format!("{says} {}", name.unwrap());
    let router = Router::new().route("/", route_get(|| async { text }));
    let fixture = start_on(listener, ServerConfig::default(), Services::new().http(router)).await;
    until("it has answered", || {
        fixture.stats.requests_total() == 1 && fixture.stats.requests_in_flight() == 0
    })
    .await;
    let report = fixture.serving.drain(within(Duration::from_secs(5))).await;
    assert_eq!(report.cut_total, 0);
}
