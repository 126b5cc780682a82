//! Health checks by the exit code of a program.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use meshwork::{Check, Memory, NoticeKind, NoticeState};
use tokio::time::{Instant, timeout};

use crate::rig::{LIMIT, Running, app, eventually};

/// A program of the shell that runs `text`.
fn program(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exit_code_of_a_program_is_readiness_and_its_output_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (script, code) = (dir.path().join("disk"), dir.path().join("code"));
    let say = |exit: u8| {
        fs::write(dir.path().join("new"), exit.to_string()).unwrap();
        fs::rename(dir.path().join("new"), &code).unwrap();
    };
    say(0);
    program(&script, &format!("echo disk at 91%; exit $(cat {})", code.display()));
    let check = Check::script("disk", [&script]).interval(Duration::from_millis(20)).failure_threshold(2);
    let memory = Memory::new();
    let app = app(&memory)
        .with_config("[service.notices]\ndelay = \"0s\"")
        .with_config("[service.readiness]\nloss_delay = \"0s\"\nreturn_delay = \"0s\"")
        .check(check.timeout(LIMIT));
    let running = Running::start(app).await;
    let status = || running.handle.instance().unwrap().status.as_str().to_owned();
    let mut heard = running.handle.notices();
    let mut next = async || timeout(LIMIT, heard.next()).await.unwrap().unwrap();

    say(1);
    let warned = next().await;
    assert_eq!((warned.kind, &*warned.name, warned.state), (NoticeKind::Check, "disk", NoticeState::Warning));
    assert_eq!(warned.cause.as_deref(), Some("exit code 1: disk at 91%"));
    assert_eq!(status(), "up", "a warning passes");
    say(2);
    assert_eq!(next().await.state, NoticeState::Critical);
    eventually("the record says unready", || status() == "unready").await;
    say(0);
    assert_eq!(next().await.state, NoticeState::Passing);
    eventually("the record says up", || status() == "up").await;
    assert!(running.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_hangs_keeps_the_app_from_starting_and_is_gone_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let (script, pids) = (dir.path().join("hangs"), dir.path().join("pids"));
    program(&script, &format!("sleep 1000 &\necho $! $$ >> {}\nwait", pids.display()));
    let check = Check::script("hangs", [&script]).timeout(Duration::from_millis(200));
    let built = app(&Memory::new()).with_config("[service]\nstart_timeout = \"900ms\"").check(check);
    let began = Instant::now();
    let error = Running::launch(built).ended().await.unwrap_err();
    assert!(format!("{error:?}").contains("readiness of `hangs`"), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let started = fs::read_to_string(&pids).unwrap();
    assert!(!started.is_empty());
    for pid in started.split_whitespace() {
        let stat = format!("/proc/{pid}/stat");
        eventually("it is gone", || fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_is_not_there_is_a_mistake_that_is_told_before_anything_starts() {
    let missing = app(&Memory::new()).check(Check::script("disk", ["/no/such/program", "-w"]));
    let error = Running::launch(missing).ended().await.unwrap_err();
    let said = format!("{error:?}");
    assert_eq!(error.code(), 2);
    assert!(said.contains("check `disk`: `/no/such/program` cannot be run: No such file"), "{said}");
}
