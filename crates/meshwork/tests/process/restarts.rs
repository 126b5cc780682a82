//! Restarts on one machine that refuse nobody: by hand-over, and by a supervisor that keeps the socket.

use std::{
    env,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    rig::{LIMIT, Service},
    storm::{Seen, Storm},
};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("five_restarts_by_hand_over_refuse_nobody", by_hand_over),
    ("five_restarts_under_a_kept_socket_refuse_nobody", under_a_kept_socket),
    ("a_successor_that_fails_freezes_or_is_killed_leaves_the_one_before_serving", failing_successors),
    ("two_apps_in_one_process_start_stop_and_take_sockets_as_one", two_apps),
    ("a_collector_that_never_answers_delays_the_exit_by_its_budget", dead_collector),
];

/// New connections a second, callers that keep theirs, and restarts.
const RATE: u32 = 500;
const KEPT: usize = 20;
const RESTARTS: usize = 5;
/// Between a restart and the next.
const PACE: Duration = Duration::from_millis(300);

fn socket(dir: &tempfile::TempDir) -> String {
    dir.path().join("handover.sock").display().to_string()
}

/// A service of this role that offers its sockets at `path`.
fn offering(role: &str, path: &str) -> Service {
    Service::start(role, &[], &[("MESHWORK__SERVICE__HANDOVER", path)])
}

fn serving(service: &mut Service) -> SocketAddr {
    service.says("serving at").rsplit(' ').next().unwrap().parse().unwrap()
}

fn judge(what: &str, seen: &Seen) {
    let Seen { calls, kept_calls, grpc_calls, resent, failed, late, slowest, took } = seen;
    let rate = *calls as f64 / took.as_secs_f64();
    println!(
        "{what}: {RESTARTS} restarts, {calls} new connections at {rate:.0}/s, {kept_calls} calls on {KEPT} kept \
         ones, {grpc_calls} in gRPC ({resent} sent again after GOAWAY), {} failed, {late} too late by themselves, \
         slowest new {slowest:.0?}",
        failed.len()
    );
    assert!(late * 20 < *calls, "{what}: {late} of {calls} callers were held up, this shows nothing");
    assert!(failed.is_empty(), "{what}: {:?}", &failed[..failed.len().min(10)]);
    assert!(*calls > 0 && *kept_calls > 0 && *grpc_calls > 0, "{seen:?}");
}

fn by_hand_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket(&dir);
    let mut now = offering("busy", &path);
    let addr = serving(&mut now);
    let storm = Storm::begin(addr, RATE, KEPT);
    let mut before = Vec::new();
    for _ in 0..RESTARTS {
        thread::sleep(PACE);
        let mut next = offering("busy", &path);
        assert_eq!(serving(&mut next), addr);
        before.push(std::mem::replace(&mut now, next));
    }
    for service in before {
        let (code, said) = service.ended();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("handed over to process"), "{said}");
    }
    let seen = storm.end();
    now.signal("TERM");
    assert_eq!(now.ended().0, Some(0));
    judge("by hand-over", &seen);
}

/// A socket as systemd makes it.
async fn kept_socket() -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket.listen(4096).unwrap().into_std().unwrap()
}

fn under_a_kept_socket() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(kept_socket());
    let addr = listener.local_addr().unwrap();
    let start = || {
        // A shell hands the descriptor over under the right number and says its own process id, which exec keeps.
        let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(env::current_exe().unwrap());
        command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
        let mut service = Service::spawn(command, "busy", &[]);
        assert_eq!(serving(&mut service), addr);
        service
    };
    let mut now = start();
    let storm = Storm::begin(addr, RATE, KEPT);
    for _ in 0..RESTARTS {
        thread::sleep(PACE);
        // As `systemctl restart`: the one ends, then the other begins.
        now.signal("TERM");
        let (code, said) = now.ended();
        assert_eq!(code, Some(0), "{said}");
        now = start();
    }
    let seen = storm.end();
    now.signal("TERM");
    assert_eq!(now.ended().0, Some(0));
    judge("under a kept socket", &seen);
}

fn failing_successors() {
    let dir = tempfile::tempdir().unwrap();
    let path = socket(&dir);
    let mut now = offering("busy", &path);
    let addr = serving(&mut now);
    let storm = Storm::begin(addr, RATE, KEPT);
    let (code, said) = offering("cold", &path).ended();
    assert_eq!(code, Some(5), "{said}");
    for (signal, expected) in [("KILL", None), ("TERM", Some(0))] {
        let mut frozen = offering("frozen", &path);
        frozen.says("warming up");
        frozen.signal(signal);
        assert_eq!(frozen.ended().0, expected);
    }
    now.says("successor ended before it served");
    // One that is stopped dead while it starts; then the one before is killed, and the successor serves all the same.
    let mut next = offering("frozen", &path);
    next.says("warming up");
    thread::sleep(PACE);
    let seen = storm.end();
    assert!(seen.failed.is_empty() && seen.calls > 0, "{seen:?}");
    next.signal("KILL");
    now.signal("TERM");
    let (code, said) = now.ended();
    assert_eq!(code, Some(0), "{said}");
    // Nobody offers any more, though the path is there.
    let mut last = offering("busy", &path);
    serving(&mut last);
    last.signal("TERM");
    assert_eq!(last.ended().0, Some(0));
}

fn dead_collector() {
    let mut service = Service::start("dead collector", &[], &[("MESHWORK__DRAIN__FLUSH", "300ms")]);
    service.says("serving at");
    let began = Instant::now();
    service.signal("TERM");
    let (code, said) = service.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("not flushed step=flush of `traces`"), "{said}");
    let took = began.elapsed();
    println!("dead collector: exit {took:.0?} after the signal, of which 300 ms are the budget");
    assert!(took < LIMIT / 10, "{took:?}");
}

fn two_apps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let hear = || {
        let mut message = [0; 256];
        let read = manager.recv(&mut message).unwrap();
        String::from_utf8(message[..read].to_vec()).unwrap()
    };
    let hears = |text: &str| {
        let mut heard = vec![hear()];
        while !heard.last().unwrap().contains(text) {
            heard.push(hear());
        }
        heard.concat().matches(text).count()
    };
    // The socket is the second's by its name.
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let script =
        "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=two.http; exec \"$0\"";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(env::current_exe().unwrap());
    command.stdin(Stdio::from(OwnedFd::from(socket.try_clone().unwrap())));
    let mut service = Service::spawn(command, "two apps", &[("NOTIFY_SOCKET", path.to_str().unwrap())]);
    let addr = |line: String| line.rsplit(' ').next().unwrap().parse::<SocketAddr>().unwrap();
    let one = addr(service.says("one at"));
    manager.set_nonblocking(true).unwrap();
    let mut early = [0; 256];
    while let Ok(read) = manager.recv(&mut early) {
        assert!(!early[..read].starts_with(b"READY=1"), "the second is not ready yet");
    }
    manager.set_nonblocking(false).unwrap();
    let two = addr(service.says("two at"));
    assert_eq!(two, socket.local_addr().unwrap());
    assert_eq!(hears("READY=1"), 1);
    for (addr, name) in [(one, "one"), (two, "two")] {
        let mut peer = TcpStream::connect(addr).unwrap();
        peer.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with(name), "{answer}");
    }
    service.signal("TERM");
    assert_eq!(hears("STOPPING=1"), 1);
    let (code, said) = service.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(["one stops", "two stops", "slow is put away"].iter().all(|line| said.contains(line)), "{said}");
}
