//! A service as its supervisor has it: started, heard, signalled, waited for.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::service::ROLE;

/// No step takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// A service that runs.
pub(crate) struct Service {
    child: Child,
    lines: mpsc::Receiver<String>,
    said: Vec<String>,
}

impl Service {
    pub(crate) fn start(role: &str, args: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(args);
        Self::spawn(command, role, variables)
    }

    pub(crate) fn spawn(mut command: Command, role: &str, variables: &[(&str, &str)]) -> Self {
        command.env(ROLE, role).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("NO_COLOR", "1").env("RUST_LOG", "info").env_remove("NOTIFY_SOCKET");
        command.envs(variables.iter().copied());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let streams: [Box<dyn Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for stream in streams {
            let sender = sender.clone();
            thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _gone = sender.send(line);
                }
            });
        }
        Self { child, lines, said: Vec::new() }
    }

    /// Waits until it says `text`.
    pub(crate) fn says(&mut self, text: &str) -> String {
        let limit = Instant::now() + LIMIT;
        loop {
            let left = limit.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("never said `{text}`, but {:#?}", self.said));
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Its exit code and all that it said.
    pub(crate) fn ended(mut self) -> (Option<i32>, String) {
        let limit = Instant::now() + LIMIT;
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() < limit => thread::sleep(Duration::from_millis(5)),
                None => {
                    self.child.kill().unwrap();
                    self.said.extend(self.lines.iter());
                    panic!("does not end; it said {:#?}", self.said);
                }
            }
        };
        self.said.extend(self.lines.iter());
        (status.code(), self.said.join("\n"))
    }
}
