//! A wall clock that is set while a service stops, as by a time server: every limit is one of the monotonic clock.

use std::{fs, path::Path, process::Command, time::Duration};

use meshwork_tests::{event::Event, provider::Plan};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};

use super::rig::{LIMIT, actor};

const DEADLINE: Duration = Duration::from_millis(2_500);
/// More than any limit that anybody has.
const JUMP: i64 = 400 * 24 * 3_600;
/// What a process asks for the time of day instead of its C library, which adds what stands in a file.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *time) {
    long failed = syscall(SYS_clock_gettime, id, time), jump = 0;
    const char *path = getenv("TEST_CLOCK_JUMP");
    if (failed || id != CLOCK_REALTIME || !path) return failed;
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%ld", &jump) == 1) time->tv_sec += jump;
        fclose(file);
    }
    return 0;
}
"#;

/// Builds the shim by the C compiler that links Rust programs.
fn shim(dir: &Path) -> String {
    let (source, library) = (dir.join("clock.c"), dir.join("clock.so"));
    fs::write(&source, SHIM).unwrap();
    let built =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    library.display().to_string()
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_that_jumps_while_it_serves_and_drains_changes_no_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let jump = dir.path().join("jump");
    let set = |seconds: i64| fs::write(&jump, seconds.to_string()).unwrap();
    let plan = Plan::provider()
        .local(&dir.path().join("registry"))
        .config("drain.settle", "500ms")
        .config("drain.deadline", format!("{}ms", DEADLINE.as_millis()))
        .env("LD_PRELOAD", shim(dir.path()))
        .env("TEST_CLOCK_JUMP", jump.display().to_string());
    let provider = plan.start(actor()).await.unwrap();
    let mut peer = TcpStream::connect(provider.addr()).await.unwrap();
    peer.write_all(b"GET /hang HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    provider.event(|event| *event == Event::Hanging, LIMIT).await.unwrap();
    set(JUMP);
    sleep(Duration::from_millis(300)).await;
    assert!(provider.process().is_running());
    provider.process().terminate();
    // Back and forth, in every phase.
    for seconds in [-JUMP, JUMP, -JUMP, 0] {
        sleep(DEADLINE / 6).await;
        set(seconds);
    }
    let stopped = provider.stopped(LIMIT).await.unwrap();
    assert_eq!(stopped.code, 6, "{stopped:?}");
    assert!(
        stopped.faults.is_empty() && stopped.cut.iter().any(|cut| cut.contains("GET /hang")),
        "{stopped:?}"
    );
    let took = Duration::from_millis(stopped.took_ms);
    assert!(took >= DEADLINE - Duration::from_millis(500) && took < DEADLINE * 2, "{stopped:?}");
    // It was told another time: its log says so.
    let log = provider.process().stderr();
    let years: std::collections::BTreeSet<_> = log.iter().filter_map(|line| line.get(..4)).collect();
    assert!(years.len() >= 3, "{log:#?}");
}
