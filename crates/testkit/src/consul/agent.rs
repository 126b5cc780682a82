//! One agent: its process, its ports, its data.

use std::{
    ffi::OsString,
    fmt, fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{self, Instant};

use super::ask::ask;
use crate::{
    Error,
    ports::Port,
    process::{Process, Program},
};

const GONE: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// A Consul agent. It keeps its ports and its data while its process is down.
pub struct Agent {
    pub(super) name: String,
    pub(super) http: Port,
    pub(super) https: Option<Port>,
    /// Ports that are only held: server, serf.
    pub(super) held: Vec<Port>,
    /// Where its data is; none with `-dev`.
    pub(super) data: Option<PathBuf>,
    pub(super) consul: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) token: Option<String>,
    pub(super) running: Mutex<Running>,
}

#[derive(Default)]
pub(super) struct Running {
    process: Option<Arc<Process>>,
}

impl Agent {
    /// Its name, which is that of its node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address on which it serves plain HTTP.
    pub fn addr(&self) -> SocketAddr {
        self.http.addr()
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        self.http.url()
    }

    /// `https://127.0.0.1:<port>`, of a plan with TLS.
    pub fn https_url(&self) -> Option<String> {
        self.https.as_ref().map(|port| format!("https://{}", port.addr()))
    }

    /// Whether its process runs; a frozen one does.
    pub fn is_running(&self) -> bool {
        self.lock().process.as_ref().is_some_and(|process| process.is_running())
    }

    /// Whether it is the server that others know under this address.
    pub(super) fn serves_at(&self, addr: &str) -> bool {
        self.held.first().is_some_and(|port| port.addr().to_string() == addr)
    }

    /// Starts its process with the data it has, unless it runs. It answers some time later: see [`ready`](Self::ready).
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(&self) -> Result<(), Error> {
        let mut running = self.lock();
        if running.process.as_ref().is_none_or(|process| !process.is_running()) {
            let process = Program::new(&self.consul).args(&self.args).named(&self.name).start()?;
            running.process = Some(Arc::new(process));
        }
        Ok(())
    }

    /// Waits until it knows a leader and its own node is in the catalog.
    ///
    /// # Errors
    /// When its process has ended, or it is not so within `limit`; the error carries its output.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn ready(&self, limit: Duration) -> Result<(), Error> {
        let until = Instant::now() + limit;
        let node = format!("\"Node\":\"{}\"", self.name);
        loop {
            let leader = self.look("/v1/status/leader").await;
            let nodes = self.look("/v1/catalog/nodes").await;
            let has_leader = leader.as_ref().is_some_and(|body| body.contains(':'));
            if has_leader && nodes.is_some_and(|body| body.contains(&node)) {
                return Ok(());
            }
            let has_ended = !self.is_running();
            if has_ended || Instant::now() >= until {
                let why =
                    if has_ended { "it does not run".to_owned() } else { format!("not so after {limit:?}") };
                return Err(self.error(format!("waiting until `{}` has joined: {why}", self.name)));
            }
            time::sleep(PAUSE).await;
        }
    }

    async fn look(&self, path: &str) -> Option<String> {
        let asked = ask(self.addr(), "GET", path, self.token.as_deref(), "", LOOK).await;
        // With `-dev` the JSON is written for people, with blanks.
        asked.ok().and_then(|(status, body)| (status == 200).then(|| body.replace(": ", ":")))
    }

    /// Sends a request with the management token, if there is one, and gives status and body.
    ///
    /// # Errors
    /// When it does not answer within 5 s.
    ///
    /// # Cancel safety
    /// Dropping the future leaves open whether the agent did what was asked.
    pub async fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String), Error> {
        self.ask_as(self.token.as_deref(), method, path, body).await
    }

    /// The same with this token, or without any.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    ///
    /// # Cancel safety
    /// As [`ask`](Self::ask).
    pub async fn ask_as(
        &self,
        token: Option<&str>,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(u16, String), Error> {
        ask(self.addr(), method, path, token, body, ANSWER)
            .await
            .map_err(|e| self.error(format!("asking `{}` for {method} {path}", self.name)).with_source(e))
    }

    /// Sends a request that must be answered with 200, and gives the body.
    ///
    /// # Errors
    /// When it is answered otherwise, or not within 5 s.
    ///
    /// # Cancel safety
    /// As [`ask`](Self::ask).
    pub async fn must(&self, method: &str, path: &str, body: &str) -> Result<String, Error> {
        match self.ask(method, path, body).await? {
            (200, body) => Ok(body),
            (status, body) => {
                Err(Error::new(format!("asking `{}` for {method} {path}: {status} {body}", self.name)))
            }
        }
    }

    /// Starts it with the data it has and waits at most 30 s until it has joined.
    ///
    /// # Errors
    /// As [`start`](Self::start) and [`ready`](Self::ready).
    ///
    /// # Cancel safety
    /// Dropping the future leaves it running.
    pub async fn restart(&self) -> Result<(), Error> {
        self.start()?;
        self.ready(super::READY).await
    }

    /// Kills it by SIGKILL and waits until it is gone. With `-dev` its data goes with it.
    ///
    /// # Errors
    /// When it is still there after 5 s.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it killed.
    pub async fn kill9(&self) -> Result<(), Error> {
        if let Some(process) = &self.lock().process {
            process.kill9();
        }
        self.gone(GONE).await
    }

    /// Ends it by SIGTERM, as an operator does, and by SIGKILL when that takes longer than 10 s.
    ///
    /// # Errors
    /// When not even SIGKILL ends it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it asked to end.
    pub async fn stop(&self) -> Result<(), Error> {
        if let Some(process) = &self.lock().process {
            process.terminate();
        }
        if self.gone(GRACE).await.is_ok() {
            return Ok(());
        }
        self.kill9().await
    }

    /// Stops its process by SIGSTOP: connections stay open, nothing is answered.
    ///
    /// # Errors
    /// When it does not run, or still runs after 5 s.
    ///
    /// # Cancel safety
    /// Once polled, it will be frozen also when the future is dropped.
    pub async fn freeze(&self) -> Result<(), Error> {
        let process = self.lock().process.clone();
        match process {
            Some(process) => process.freeze().await,
            None => Err(Error::new(format!("freezing `{}`: it does not run", self.name))),
        }
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        if let Some(process) = &self.lock().process {
            process.thaw();
        }
    }

    /// Deletes its data, so that the next start begins with none; an agent of `-dev` has none anyway.
    ///
    /// # Errors
    /// When it runs, or its data cannot be deleted.
    pub fn wipe(&self) -> Result<(), Error> {
        if self.is_running() {
            return Err(Error::new(format!("wiping `{}`: it runs", self.name)));
        }
        match self.data.as_ref().map(fs::remove_dir_all) {
            Some(Err(e)) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::new(format!("wiping `{}`", self.name)).with_source(e))
            }
            _ => Ok(()),
        }
    }

    async fn gone(&self, limit: Duration) -> Result<(), Error> {
        let until = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() >= until {
                let name = &self.name;
                return Err(
                    self.error(format!("waiting for the end of `{name}`: still running after {limit:?}"))
                );
            }
            time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    fn error(&self, attempted: String) -> Error {
        match &self.lock().process {
            Some(process) => process.error(attempted),
            None => Error::new(attempted),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held: Vec<u16> = self.held.iter().map(Port::number).collect();
        f.debug_struct("Agent")
            .field("name", &self.name)
            .field("url", &self.url())
            .field("held", &held)
            .finish()
    }
}
