//! A program whose exit code is the answer: started without a shell, in a process group of its own that it cannot outlive.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::AsyncReadExt,
    net::unix::pipe::Receiver,
    process::{Child, Command},
    select,
    time::{Instant, timeout, timeout_at},
};

use super::tally::Answer;

/// How many bytes of output become part of the cause; the rest is read and forgotten.
const KEPT: usize = 1_024;
/// How long output may still come when the program has ended.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// How long a killed program may take to be gone.
const GONE: Duration = Duration::from_secs(1);
/// What systemd means for this process alone.
const OURS: [&str; 4] = ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"];

/// A program and its arguments.
pub(super) struct Script {
    argv: Vec<OsString>,
}

impl Script {
    pub(super) fn new(argv: impl Iterator<Item = OsString>) -> Self {
        Self { argv: argv.collect() }
    }

    /// Where the program is: as written, or in `PATH` when it is written without a slash.
    ///
    /// # Errors
    /// Why it cannot be run, for people.
    pub(super) fn find(&self) -> Result<PathBuf, String> {
        let Some(program) = self.argv.first().filter(|program| !program.is_empty()) else {
            return Err("it names no program to run".to_owned());
        };
        let shown = program.display();
        if program.as_bytes().contains(&b'/') {
            let path = PathBuf::from(program);
            return match is_executable(&path) {
                Ok(true) => Ok(path),
                Ok(false) => Err(format!("`{shown}` is no file that may be executed")),
                Err(error) => Err(format!("`{shown}` cannot be run: {error}")),
            };
        }
        let path = env::var_os("PATH").unwrap_or_default();
        let found = env::split_paths(&path).map(|dir| dir.join(program));
        found
            .into_iter()
            .find(|path| is_executable(path).unwrap_or(false))
            .ok_or_else(|| format!("no program `{shown}` in `PATH`"))
    }

    /// Runs it once, for at most `limit`: its answer, and why it is none that passes.
    ///
    /// # Cancel safety
    /// Dropping the future kills what was started.
    pub(super) async fn run(&self, limit: Duration) -> (Answer, Option<String>) {
        let until = Instant::now() + limit;
        let (mut child, mut group, mut output) = match self.spawn() {
            Ok(started) => started,
            Err(error) => return (Answer::Fails, Some(format!("it could not be started: {error}"))),
        };
        let ended = async {
            loop {
                select! {
                    ended = child.wait() => return ended,
                    () = output.read(), if output.is_open => {}
                }
            }
        };
        match timeout_at(until, ended).await {
            Ok(Ok(status)) => {
                let _cut = timeout(LAST_WORDS, output.read_to_end()).await;
                // Nobody else has its output, so that nobody else is there.
                group.is_over = !output.is_open;
                judge(status, &output)
            }
            Ok(Err(error)) => (Answer::Fails, Some(format!("waiting for it: {error}"))),
            Err(_elapsed) => {
                drop(group);
                let _gone = timeout(GONE, child.wait()).await;
                let _cut = timeout(LAST_WORDS, output.read_to_end()).await;
                (Answer::Fails, Some(format!("not done within {limit:?}, killed{}", output.told())))
            }
        }
    }

    fn spawn(&self) -> io::Result<(Child, Group, Output)> {
        let program = self.find().map_err(io::Error::other)?;
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(program);
        command.args(&self.argv[1..]).stdin(Stdio::null());
        command.stdout(writer.try_clone()?).stderr(writer).process_group(0).kill_on_drop(true);
        OURS.iter().for_each(|variable| _ = command.env_remove(variable));
        let child = command.spawn()?;
        // Its ends of the pipe live in the command: who reads waits for them too.
        drop(command);
        let id = child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?));
        let output =
            Output { pipe: Receiver::from_owned_fd(reader.into())?, kept: Vec::new(), is_open: true };
        Ok((child, Group { id, is_over: false }, output))
    }
}

fn is_executable(path: &Path) -> io::Result<bool> {
    let found = fs::metadata(path)?;
    Ok(found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn judge(status: ExitStatus, output: &Output) -> (Answer, Option<String>) {
    let (answer, ended) = match (status.code(), status.signal()) {
        (Some(0), _) => return (Answer::Passes, None),
        (Some(1), _) => (Answer::Warns, "exit code 1".to_owned()),
        (Some(code), _) => (Answer::Fails, format!("exit code {code}")),
        (None, signal) => (Answer::Fails, format!("ended by signal {}", signal.unwrap_or_default())),
    };
    (answer, Some(ended + &output.told()))
}

/// What the program and its children say, standard output and standard error as they come.
struct Output {
    pipe: Receiver,
    kept: Vec<u8>,
    is_open: bool,
}

impl Output {
    /// Reads a piece.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    async fn read(&mut self) {
        let mut piece = [0; KEPT];
        let read = self.pipe.read(&mut piece).await.unwrap_or(0);
        self.is_open = read > 0;
        let room = KEPT - self.kept.len();
        self.kept.extend_from_slice(&piece[..read.min(room)]);
    }

    async fn read_to_end(&mut self) {
        while self.is_open {
            self.read().await;
        }
    }

    /// What was kept, on one line.
    fn told(&self) -> String {
        let text = String::from_utf8_lossy(&self.kept);
        let words: Vec<_> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
        let line = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
        if line.is_empty() { line } else { format!(": {line}") }
    }
}

/// Kills the whole group when it is dropped, unless it is over.
struct Group {
    id: Option<Pid>,
    is_over: bool,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let (Some(id), false) = (self.id, self.is_over) {
            // It may be gone already.
            let _gone = kill_process_group(id, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn shell(line: &str) -> Script {
        Script::new(["sh", "-c", line].into_iter().map(OsString::from))
    }

    async fn says(line: &str) -> (Answer, String) {
        let (answer, cause) = shell(line).run(LIMIT).await;
        (answer, cause.unwrap_or_default())
    }

    /// Whether a process lives that is no zombie.
    fn lives(pid: &str) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().is_empty() && !rest.starts_with(" Z"))
    }

    async fn gone(pid: &str) {
        let until = Instant::now() + LIMIT;
        while lives(pid) {
            assert!(Instant::now() < until, "process {pid} lives on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn the_exit_code_is_the_answer_and_the_output_the_cause() {
        assert_eq!(says("echo fine").await, (Answer::Passes, String::new()));
        let warned = says("echo 'disk  at'; echo 91% >&2; exit 1").await;
        assert_eq!(warned, (Answer::Warns, "exit code 1: disk at 91%".to_owned()));
        assert_eq!(says("exit 2").await, (Answer::Fails, "exit code 2".to_owned()));
        assert_eq!(says("kill -9 $$").await, (Answer::Fails, "ended by signal 9".to_owned()));
    }

    #[tokio::test]
    async fn output_without_end_is_read_and_forgotten_but_for_its_beginning() {
        let (answer, cause) = says("head -c 1000000 /dev/zero | tr '\\0' x; exit 3").await;
        assert_eq!((answer, cause.len()), (Answer::Fails, "exit code 3: ".len() + KEPT));
    }

    #[tokio::test]
    async fn one_that_hangs_is_killed_with_all_that_it_started() {
        let began = Instant::now();
        let hangs = shell("sleep 1000 & echo $!; echo $$; wait");
        let (answer, cause) = hangs.run(Duration::from_millis(300)).await;
        let cause = cause.unwrap();
        assert_eq!(answer, Answer::Fails);
        let pids = cause.strip_prefix("not done within 300ms, killed: ").unwrap_or_else(|| panic!("{cause}"));
        assert!(began.elapsed() < LIMIT);
        for pid in pids.split(' ') {
            gone(pid).await;
        }
    }

    #[tokio::test]
    async fn what_it_leaves_running_with_its_output_open_is_killed() {
        let (answer, cause) = says("sleep 1000 & echo $!; exit 2").await;
        assert_eq!(answer, Answer::Fails);
        gone(cause.strip_prefix("exit code 2: ").unwrap()).await;
    }

    #[tokio::test]
    async fn dropping_the_run_kills_it_and_leaves_no_zombie() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let line = format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 1000", file.display());
        let script = shell(&line);
        let pid = select! {
            _ = script.run(LIMIT) => panic!("it ends"),
            pid = async {
                loop {
                    match fs::read_to_string(&file) {
                        Ok(pid) => return pid.trim().to_owned(),
                        Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                    }
                }
            } => pid,
        };
        let until = Instant::now() + LIMIT;
        // Not even as a zombie: another program that ends has it collected too.
        while Path::new(&format!("/proc/{pid}")).exists() {
            assert!(Instant::now() < until, "process {pid} is left");
            says("exit 0").await;
        }
    }

    #[test]
    fn a_program_that_cannot_be_run_is_said_before_it_is() {
        let fault = |argv: &[&str]| Script::new(argv.iter().map(OsString::from)).find().unwrap_err();
        assert_eq!(fault(&[]), "it names no program to run");
        assert!(fault(&["/no/such/program"]).contains("`/no/such/program` cannot be run: No such file"));
        assert!(fault(&["no-such-program-at-all"]).contains("in `PATH`"));
        assert!(fault(&["/etc/passwd"]).contains("no file that may be executed"));
        assert!(fault(&["/tmp"]).contains("no file that may be executed"));
        assert!(shell("").find().is_ok());
    }
}
