//! What a supervisor does with a service, and what it sees.

use std::{
    env, fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::rig::{LIMIT, Service};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("jobs_run_and_their_exit_codes_say_how_they_ended", jobs),
    ("a_stop_is_clean_and_quick", clean),
    ("systemd_hears_ready_stopping_and_the_watchdog", systemd),
    ("a_notify_socket_that_nobody_reads_or_that_is_gone_changes_nothing", deaf_systemd),
    ("a_socket_that_was_handed_over_is_served_and_keeps_its_callers_over_a_restart", handed_over),
    ("a_stop_during_the_start_ends_it_and_undoes_it", during_the_start),
    ("a_hook_that_blocks_its_thread_does_not_hold_the_exit_up", blocking_hook),
    ("a_hook_that_panics_is_told_and_the_rest_is_put_away", panicking_hook),
    ("a_hook_that_ends_after_the_deadline_is_cut_at_it_and_named", late_hook),
    ("whatever_blocks_its_thread_for_ever_is_named_and_the_process_ends_on_time", blocked),
    ("a_second_signal_ends_it_at_once_though_every_worker_is_blocked", second_signal),
    ("one_signal_ends_it_at_the_deadline_though_every_worker_is_blocked", one_signal),
];

fn jobs() {
    let run = |arg: &str| Service::start("plain", &[arg], &[]).ended();
    let (code, said) = run("--job=migrate");
    assert_eq!(code, Some(0), "{said}");
    let order = ["database starts", "migrated", "database stops"].map(|line| said.find(line).unwrap());
    assert!(order.is_sorted(), "{said}");
    assert!(!said.contains("serving at"), "{said}");
    let (code, said) = run("--job=broken");
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("job `broken`") && said.contains("row 7 is broken"), "{said}");
    assert!(said.contains("database stops"), "{said}");
    let (code, said) = run("--job=mgirate");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no job `mgirate`; there are `migrate`, `broken`"), "{said}");
    let (code, said) = run("--help");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("--job=NAME") && said.contains("  migrate\n  broken"), "{said}");
    assert!(!said.contains("database starts"), "{said}");
}

fn clean() {
    for signal in ["TERM", "INT"] {
        let mut service = Service::start("plain", &[], &[]);
        service.says("serving at");
        let began = Instant::now();
        service.signal(signal);
        let (code, said) = service.ended();
        assert_eq!(code, Some(0), "{said}");
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    }
}

/// A socket as systemd has it.
fn manager(name: &str) -> (UnixDatagram, String) {
    let path = env::temp_dir().join(format!("meshwork-{name}-{}", std::process::id()));
    let _absent = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    (socket, path.display().to_string())
}

fn systemd() {
    let (socket, path) = manager("manager");
    let hears = |text: &str| {
        let mut seen = String::new();
        while !seen.contains(text) {
            let mut message = [0; 256];
            let read = socket.recv(&mut message).unwrap_or_else(|_| panic!("no `{text}`: {seen}"));
            seen.push_str(std::str::from_utf8(&message[..read]).unwrap());
        }
        seen
    };
    let mut service = Service::start("plain", &[], &[("NOTIFY_SOCKET", &path), ("WATCHDOG_USEC", "200000")]);
    service.says("serving at");
    hears("READY=1");
    for _ in 0..3 {
        hears("WATCHDOG=1");
    }
    service.signal("TERM");
    hears("STOPPING=1");
    assert_eq!(service.ended().0, Some(0));
    fs::remove_file(path).unwrap();

    // Until it serves it is not ready.
    let (socket, path) = manager("starting");
    let mut service = Service::start("slow start", &[], &[("NOTIFY_SOCKET", &path)]);
    service.says("vault starts");
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 16]).is_err());
    service.signal("TERM");
    assert_eq!(service.ended().0, Some(0));
    fs::remove_file(path).unwrap();
}

fn deaf_systemd() {
    let (_socket, path) = manager("deaf");
    for path in [path.as_str(), "/nowhere/at/all"] {
        let variables = [("NOTIFY_SOCKET", path), ("WATCHDOG_USEC", "2000")];
        let mut service = Service::start("plain", &[], &variables);
        service.says("serving at");
        thread::sleep(Duration::from_millis(300));
        service.signal("TERM");
        let (code, said) = service.ended();
        assert_eq!(code, Some(0), "{said}");
    }
    fs::remove_file(path).unwrap();
}

/// As systemd does it: the socket is the supervisor's, and the service gets it as its third descriptor.
fn handed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let ask = || {
        let mut peer = TcpStream::connect(addr).unwrap();
        peer.set_read_timeout(Some(LIMIT)).unwrap();
        peer.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
        peer
    };
    let answered = |mut peer: TcpStream| {
        let mut answer = String::new();
        peer.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"), "{answer}");
    };
    // A shell hands the descriptor over under the right number and says its own process id, which exec keeps.
    let start = || {
        let script = "exec 3<&0; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\"";
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(env::current_exe().unwrap());
        command.stdin(Stdio::from(OwnedFd::from(listener.try_clone().unwrap())));
        let mut service = Service::spawn(command, "plain", &[]);
        let line = service.says("serving at");
        assert!(line.ends_with(&addr.to_string()), "{line}");
        service
    };
    for _ in 0..2 {
        // Whoever came before it began waits in the socket.
        let early = ask();
        let service = start();
        answered(early);
        answered(ask());
        service.signal("TERM");
        let (code, said) = service.ended();
        assert_eq!(code, Some(0), "{said}");
    }
}

fn during_the_start() {
    let mut service = Service::start("slow start", &[], &[]);
    service.says("vault starts");
    let began = Instant::now();
    service.signal("TERM");
    let (code, said) = service.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert!(said.contains("component `vault`") && said.contains("database stops"), "{said}");
}

fn blocking_hook() {
    let mut service = Service::start("blocking hook", &[], &[]);
    service.says("serving at");
    let began = Instant::now();
    service.signal("TERM");
    let (code, said) = service.ended();
    assert_eq!(code, Some(6), "{said}");
    // The drain's deadline, what `run` leaves `main`, and a slow machine.
    assert!(began.elapsed() < Duration::from_millis(2_500) * 3, "{:?}", began.elapsed());
    assert!(said.contains("`on_stop` hook 1") && said.contains("blocks its thread"), "{said}");
}

fn panicking_hook() {
    let mut service = Service::start("panicking hook", &[], &[]);
    service.says("serving at");
    service.signal("TERM");
    let (code, said) = service.ended();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("out of luck") && said.contains("database stops"), "{said}");
}

fn late_hook() {
    let mut service = Service::start("late hook", &[], &[]);
    service.says("serving at");
    let began = Instant::now();
    service.signal("TERM");
    let (code, said) = service.ended();
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("`on_stop` hook 1") && said.contains("not done within"), "{said}");
    assert!(said.contains("database stops") && !said.contains("hook was late"), "{said}");
    assert!(began.elapsed() < Duration::from_millis(2_000) * 3, "{:?}", began.elapsed());
}

/// What `main` does after `serve` is its own affair: not for ever, when a thread is blocked.
fn blocked() {
    let cases = [
        ("component start", 5, "component `vault`"),
        ("warm_up", 0, "`warm_up` hook 1"),
        ("on_serving", 6, "`on_serving` hook 2"),
        ("on_stop", 6, "`on_stop` hook 1"),
        ("task", 6, "task `outbox`"),
        ("job", 6, "job `hangs`"),
        ("handler", 6, "http1"),
    ];
    // All at once: each lasts until its deadline.
    let services = cases.map(|(what, code, name)| {
        let args: &[&str] = if what == "job" { &["--job=hangs"] } else { &[] };
        (Service::start(&format!("blocking {what}"), args, &[]), what, code, name)
    });
    let stopped = services.map(|(mut service, what, code, name)| {
        let line = matches!(what, "handler" | "on_stop").then(|| service.says("serving at"));
        let peer = line.filter(|_| what == "handler").map(|line| {
            let mut peer = TcpStream::connect(line.rsplit(' ').next().unwrap()).unwrap();
            peer.write_all(b"GET /block HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
            peer
        });
        if what != "on_stop" {
            service.says("blocking");
        }
        if what != "component start" {
            service.signal("TERM");
        }
        (service, what, code, name, peer, Instant::now())
    });
    for (service, what, code, name, peer, began) in stopped {
        let (ended, said) = service.ended();
        assert_eq!(ended, Some(code), "{what}: {said}");
        assert!(said.contains(name), "{what}: {said}");
        // The drain's deadline, what `serve` leaves `main`, and a slow machine.
        assert!(began.elapsed() < Duration::from_millis(3_000) * 3, "{what}: {:?}", began.elapsed());
        drop(peer);
    }
}

/// A service that serves and has both its workers blocked, and who blocks them.
fn all_blocked() -> (Service, Vec<TcpStream>) {
    let mut service = Service::start("plain", &[], &[]);
    let line = service.says("serving at");
    let addr = line.rsplit(' ').next().unwrap().to_owned();
    let mut peers = Vec::new();
    // One for each worker; a third may wait for ever.
    for _ in 0..2 {
        let mut peer = TcpStream::connect(&addr).unwrap();
        peer.write_all(b"GET /block HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        peers.push(peer);
    }
    (service, peers)
}

fn one_signal() {
    let (mut service, _peers) = all_blocked();
    service.says("blocking");
    service.signal("TERM");
    let began = Instant::now();
    let (code, said) = service.ended();
    assert_eq!(code, Some(6), "{said}");
    // The deadline, what a runtime that does not turn is given besides, and a slow machine.
    assert!(began.elapsed() < Duration::from_millis(3_000) * 3, "{:?}", began.elapsed());
}

fn second_signal() {
    let (mut service, _peers) = all_blocked();
    service.says("blocking");
    service.signal("TERM");
    thread::sleep(Duration::from_millis(100));
    let began = Instant::now();
    service.signal("TERM");
    let (code, said) = service.ended();
    assert_eq!(code, Some(143), "{said}");
    assert!(began.elapsed() < Duration::from_millis(2_000), "{:?}", began.elapsed());
}
