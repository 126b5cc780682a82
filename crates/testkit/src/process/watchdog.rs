//! One shell per test process, which outlives it by a moment and kills the groups that it left behind.
//!
//! The shell reads which groups live from a pipe; the pipe ends when the test process ends, however it does. It leads
//! a group of its own, so that Ctrl-C at the terminal does not reach it, and keeps no stream of ours open.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use rustix::process::Pid;

const SCRIPT: &str = r#"
all=
while read -r what group; do
    case $what in
    watch) all="$all $group" ;;
    forget)
        left=
        for one in $all; do
            [ "$one" = "$group" ] || left="$left $one"
        done
        all=$left
        ;;
    esac
done
for one in $all; do
    kill -s KILL -- "-$one"
done
"#;

static PIPE: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// Starts the shell when there is none yet.
pub(super) fn ready() -> io::Result<()> {
    let mut pipe = PIPE.lock().unwrap_or_else(PoisonError::into_inner);
    if pipe.is_none() {
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "meshwork-testkit-watchdog"])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        *pipe = shell.stdin.take();
    }
    Ok(())
}

/// From now on the group dies with us.
pub(super) fn watch(group: Pid) -> io::Result<()> {
    tell("watch", group)
}

/// The group has ended, and its number may be given to another.
pub(super) fn forget(group: Pid) {
    // A shell that somebody has killed has nothing left to forget.
    let _ = tell("forget", group);
}

fn tell(what: &str, group: Pid) -> io::Result<()> {
    match &mut *PIPE.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(pipe) => pipe.write_all(format!("{what} {}\n", group.as_raw_nonzero()).as_bytes()),
        None => Err(io::Error::other("the watchdog does not run")),
    }
}
