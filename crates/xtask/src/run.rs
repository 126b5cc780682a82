//! Runs one command: with its output shown as it comes, its test results counted, and an end.

use std::{
    io::{self, BufRead, BufReader, IsTerminal, Write},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// How often a command that prints nothing is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long output is awaited after the end of a command whose children keep the pipe.
const LINGER: Duration = Duration::from_secs(2);

/// Announces a step, with its reason where it takes long.
pub(crate) fn say(text: &str) {
    let mut out = io::stdout().lock();
    let bold = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (on, off) = if bold { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
    // A closed stdout is no reason to stop the work.
    let _ = writeln!(out, "{on}==> {text}{off}");
    let _ = out.flush();
}

/// Runs to the end and gives what was printed; what went to stderr is shown.
pub(crate) fn output(command: &mut Command, what: &str) -> Result<String, String> {
    let out =
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().map_err(|e| format!("{what}: {e}"))?;
    if out.status.success() {
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    } else {
        Err(format!("{what}: {}", out.status))
    }
}

/// Runs to the end with everything shown.
pub(crate) fn shown(command: &mut Command) -> Result<ExitStatus, String> {
    command.stdin(Stdio::null()).status().map_err(|e| starting(command, &e))
}

/// Becomes the command: what ends us then ends it, and the terminal is its own. Returns only when that fails.
pub(crate) fn become_it(command: &mut Command) -> String {
    let e = command.exec();
    starting(command, &e)
}

/// Runs to the end or to the limit, and gives each line of stdout to `on_line` as it comes.
pub(crate) fn lines(
    command: &mut Command,
    limit: Option<Duration>,
    mut on_line: impl FnMut(&str),
) -> Result<ExitStatus, String> {
    let begun = Instant::now();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|e| starting(command, &e))?;
    let stdout = child.stdout.take().expect("invariant: stdout is piped");
    let (send, receive) = mpsc::sync_channel(1024);
    thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if send.send(text).is_err() {
                return;
            }
        }
    });
    let mut ended: Option<Instant> = None;
    loop {
        match receive.recv_timeout(LOOK) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if ended.is_none() && matches!(child.try_wait(), Ok(Some(_))) {
                    ended = Some(Instant::now());
                }
                if ended.is_some_and(|at| at.elapsed() > LINGER) {
                    break;
                }
            }
        }
        if let Some(limit) = limit
            && begun.elapsed() > limit
        {
            return Err(cut(&mut child, limit));
        }
    }
    while let Some(limit) = limit {
        match child.try_wait() {
            Ok(None) if begun.elapsed() > limit => return Err(cut(&mut child, limit)),
            Ok(None) => thread::sleep(LOOK),
            Ok(Some(status)) => return Ok(status),
            Err(e) => return Err(format!("waiting for a command: {e}")),
        }
    }
    child.wait().map_err(|e| format!("waiting for a command: {e}"))
}

/// Shows a line of a command that runs.
pub(crate) fn echo(line: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// Runs a service for `up`, asks it to end as a supervisor does, and waits at most `grace` for that. One that ends by
/// itself is not asked.
pub(crate) fn service(command: &mut Command, up: Duration, grace: Duration) -> Result<ExitStatus, String> {
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn().map_err(|e| starting(command, &e))?;
    let mut is_asked = false;
    loop {
        match child.try_wait() {
            Ok(None) => {}
            Ok(Some(status)) => return Ok(status),
            Err(e) => return Err(format!("waiting for a service: {e}")),
        }
        if !is_asked && begun.elapsed() > up {
            is_asked = true;
            // std sends no signal but SIGKILL, and a small machine may have no kill(1): the shell has one.
            let kill = format!("kill -s TERM {}", child.id());
            output(Command::new("/bin/sh").args(["-c", &kill]), "asking a service to end")?;
        }
        if begun.elapsed() > up + grace {
            return Err(cut(&mut child, up + grace));
        }
        thread::sleep(LOOK);
    }
}

fn cut(child: &mut Child, limit: Duration) -> String {
    let _ = child.kill();
    let _ = child.wait();
    format!("cut: still running after {} s", limit.as_secs())
}

fn starting(command: &Command, e: &io::Error) -> String {
    format!("starting {}: {e}", command.get_program().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn gives_every_line_and_the_status() {
        let mut seen = Vec::new();
        let status =
            lines(&mut sh("echo a; echo b; exit 3"), None, |line| seen.push(line.to_owned())).unwrap();
        assert_eq!((seen, status.code()), (vec!["a".to_owned(), "b".to_owned()], Some(3)));
    }

    #[test]
    fn cuts_what_runs_over_its_limit() {
        let begun = Instant::now();
        let outcome = lines(&mut sh("exec sleep 60"), Some(Duration::from_millis(300)), drop_line);
        assert!(outcome.unwrap_err().starts_with("cut"));
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_service_is_asked_to_end() {
        // Until a shell has come to its first command it obeys: on a busy machine that takes a while.
        let ends = |script: &str, grace: Duration, is_right: fn(Result<ExitStatus, String>) -> bool| {
            [1, 4, 16]
                .into_iter()
                .any(|up| is_right(service(&mut sh(script), Duration::from_secs(up), grace)))
        };
        let polite = "trap 'exit 0' TERM; while :; do sleep 0.02; done";
        assert!(ends(polite, Duration::from_secs(20), |ended| ended.is_ok_and(|status| status.success())));
        let deaf = "trap '' TERM; while :; do sleep 0.02; done";
        assert!(ends(deaf, Duration::from_millis(300), |ended| ended.is_err()));
        let mut short = sh("exit 4");
        let status = service(&mut short, Duration::from_secs(20), Duration::ZERO).unwrap();
        assert_eq!(status.code(), Some(4));
    }

    fn drop_line(_: &str) {}
}
