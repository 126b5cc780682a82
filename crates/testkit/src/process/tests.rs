//! Against real processes: shells, sleeps, and this very test executable as a test that gets killed.

use super::*;
use crate::truth::eventually;

const LIMIT: Duration = Duration::from_secs(20);
const BODY: &str = "MESHWORK_TESTKIT_KILLED_TEST";

fn sh(script: &str) -> Process {
    Program::new("/bin/sh").args(["-c", script]).named("shell").start().unwrap()
}

/// Whether a process with that id exists and is no zombie.
fn is_alive(id: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

/// The living processes of a group.
fn group(id: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|one| {
            let stat = std::fs::read_to_string(format!("/proc/{one}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            is_alive(*one) && fields.get(2) == Some(&id.to_string().as_str())
        })
        .collect()
}

fn state(id: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit(')').next()?.trim_start().chars().next()
}

#[tokio::test]
async fn walks_through_the_lines_of_stdout() {
    let process = sh("echo one; echo two; echo one; exec sleep 600");
    let is_one = |line: &str| line == "one";
    assert_eq!(process.wait_for_line(is_one, LIMIT).await.unwrap(), "one");
    assert_eq!(process.wait_for_line(is_one, LIMIT).await.unwrap(), "one");
    assert_eq!(process.stdout(), ["one", "two", "one"]);
    let error = process.wait_for_line(is_one, Duration::from_millis(50)).await.unwrap_err();
    assert!(error.to_string().contains("none after 50ms"), "{error}");
}

#[tokio::test]
async fn an_end_without_the_line_shows_status_and_stderr() {
    let process = sh("echo lost >&2; exit 7");
    let error = process.wait_for_line(|_| true, LIMIT).await.unwrap_err();
    assert!(process.ended(LIMIT).await.unwrap().code() == Some(7));
    eventually(LIMIT, "stderr is read", || async { process.stderr() == ["lost"] }).await.unwrap();
    assert!(error.to_string().contains("ended without one"), "{error}");
    assert!(process.error("x".to_owned()).output().contains("stderr: lost"));
}

#[tokio::test]
async fn terminates_and_kills() {
    let polite = sh("trap 'exit 3' TERM; echo up; while :; do sleep 0.02; done");
    polite.wait_for_line(|line| line == "up", LIMIT).await.unwrap();
    assert_eq!(polite.stop(LIMIT).await.unwrap().code(), Some(3));

    let deaf = sh("trap '' TERM; echo up; while :; do sleep 0.02; done");
    deaf.wait_for_line(|line| line == "up", LIMIT).await.unwrap();
    let status = deaf.stop(Duration::from_millis(100)).await.unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert!(!deaf.is_running());
}

#[tokio::test]
async fn freezes_thaws_and_kills_a_frozen_one() {
    // Without a child of its own: a shell in the middle of its vfork does not stand before the child has gone on.
    let process = sh("while :; do echo tick; done");
    process.wait_for_line(|_| true, LIMIT).await.unwrap();
    process.freeze().await.unwrap();
    assert_eq!(state(process.id()), Some('T'));
    process.thaw();
    eventually(LIMIT, "it runs again", || async { state(process.id()) != Some('T') }).await.unwrap();
    process.freeze().await.unwrap();
    process.kill9();
    process.ended(LIMIT).await.unwrap();
    assert!(process.freeze().await.is_err());
}

#[tokio::test]
async fn dropping_takes_the_whole_group() {
    let process = sh("sleep 600 & echo $!; wait");
    let grandchild: u32 = process.wait_for_line(|_| true, LIMIT).await.unwrap().parse().unwrap();
    assert!(is_alive(grandchild));
    drop(process);
    eventually(LIMIT, "the grandchild is gone", || async { !is_alive(grandchild) }).await.unwrap();
}

#[tokio::test]
async fn a_group_does_not_outlive_its_leader() {
    let process = sh("sleep 600 & echo $!");
    let orphan: u32 = process.wait_for_line(|_| true, LIMIT).await.unwrap().parse().unwrap();
    process.ended(LIMIT).await.unwrap();
    eventually(LIMIT, "the orphan is gone", || async { !is_alive(orphan) }).await.unwrap();
}

#[tokio::test]
async fn a_panic_takes_the_process_with_it() {
    let process = sh("exec sleep 600");
    let id = process.id();
    let panicked = tokio::spawn(async move {
        let _process = process;
        panic!("as a failing test does");
    })
    .await;
    assert!(panicked.unwrap_err().is_panic());
    assert!(!is_alive(id));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = Program::new("/no/such/program").start().unwrap_err();
    assert!(format!("{error:?}").starts_with("starting `program`: No such file"), "{error:?}");
}

/// Not a test by itself: the body of the one below, run in a test process of its own.
#[test]
fn body_of_a_test_that_is_killed() {
    if std::env::var_os(BODY).is_none() {
        return;
    }
    // Nothing but the watchdog ends these: they print nothing, so that the closed pipe does not.
    let child = sh("sleep 600 & wait");
    println!("\nchild {}", child.id());
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn a_killed_test_takes_its_processes_with_it() {
    let test = Program::new(std::env::current_exe().unwrap())
        .args(["process::tests::body_of_a_test_that_is_killed", "--exact", "--nocapture"])
        .env(BODY, "1")
        .start()
        .unwrap();
    let line = test.wait_for_line(|line| line.starts_with("child "), LIMIT).await.unwrap();
    let child: u32 = line.trim_start_matches("child ").parse().unwrap();
    eventually(LIMIT, "the child has a child", || async { group(child).len() == 2 }).await.unwrap();
    test.kill9();
    test.ended(LIMIT).await.unwrap();
    eventually(LIMIT, "the group of the killed test's child is gone", || async { group(child).is_empty() })
        .await
        .unwrap();
}

#[tokio::test]
async fn what_was_printed_last_is_there_once_it_has_ended() {
    // As many lines as the pipe holds when the process itself is gone.
    let process = sh("i=0; while [ $i -lt 5000 ]; do echo $i >&2; i=$((i+1)); done; exit 3");
    assert_eq!(process.ended(LIMIT).await.unwrap().code(), Some(3));
    assert_eq!(process.stderr().last().map(String::as_str), Some("4999"));
}
