//! One member: its process, its ports, its data.

use std::{
    ffi::OsString,
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{self, Instant};

use super::{Binaries, EtcdPlan, ask::ask, plan::Security};
use crate::{
    Error,
    ports::Port,
    process::{Process, Program},
};

const GONE: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// A member of an etcd cluster. It keeps its ports and its data while its process is down.
pub struct Member {
    name: String,
    client: Port,
    /// Where it answers about itself in plain text, when clients must speak TLS.
    plain: Option<Port>,
    _peer: Port,
    dir: PathBuf,
    etcd: PathBuf,
    args: Vec<OsString>,
    running: Mutex<Running>,
}

#[derive(Default)]
struct Running {
    process: Option<Arc<Process>>,
    is_frozen: bool,
}

/// What a member says of itself.
pub(super) struct Status {
    pub(super) id: String,
    pub(super) leader: String,
}

impl Member {
    /// Claims the ports of all members of a plan; nothing runs yet.
    pub(super) fn claim(
        plan: &EtcdPlan,
        security: &Security,
        binaries: &Binaries,
        data: &Path,
    ) -> Result<Vec<Self>, Error> {
        let claims: Vec<(String, Port, Port, Option<Port>)> = (1..=plan.members)
            .map(|n| {
                let plain = security.tls.is_some().then(Port::claim).transpose()?;
                Ok((format!("etcd-{n}"), Port::claim()?, Port::claim()?, plain))
            })
            .collect::<Result<_, Error>>()?;
        let all: Vec<String> =
            claims.iter().map(|(name, _, peer, _)| format!("{name}={}", peer.url())).collect();
        let all = all.join(",");
        let member = |(name, client, peer, plain): (String, Port, Port, Option<Port>)| {
            let dir = data.join(&name);
            let url = client_url(&client, plain.is_some());
            let mut args: Vec<OsString> = [
                ("--name", name.clone()),
                ("--listen-client-urls", url.clone()),
                ("--advertise-client-urls", url),
                ("--listen-peer-urls", peer.url()),
                ("--initial-advertise-peer-urls", peer.url()),
                ("--initial-cluster", all.clone()),
                ("--initial-cluster-state", "new".to_owned()),
                ("--heartbeat-interval", plan.heartbeat.as_millis().to_string()),
                ("--election-timeout", plan.election.as_millis().to_string()),
                ("--log-level", "error".to_owned()),
            ]
            .into_iter()
            .flat_map(|(flag, value)| [flag.into(), value.into()])
            .collect();
            args.extend(["--unsafe-no-fsync".into(), "--data-dir".into(), dir.clone().into_os_string()]);
            if let Some(plain) = &plain {
                args.extend(["--listen-metrics-urls".into(), plain.url().into()]);
            }
            args.extend(security.flags.iter().chain(&plan.flags).cloned());
            let etcd = binaries.etcd.clone();
            Self { name, client, plain, _peer: peer, dir, etcd, args, running: Mutex::default() }
        };
        Ok(claims.into_iter().map(member).collect())
    }

    /// Its name in the cluster: `etcd-1`, `etcd-2`, …
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address on which it serves clients.
    pub fn addr(&self) -> SocketAddr {
        self.client.addr()
    }

    /// The URL on which it serves clients: `http`, or `https` of a plan with TLS.
    pub fn url(&self) -> String {
        client_url(&self.client, self.plain.is_some())
    }

    /// The sum of the samples of one of its own metrics whose labels have `label` in them (`""` = all), for instance
    /// `grpc_server_started_total` of `grpc_method="Authenticate"`. A metric without such samples is 0.
    ///
    /// # Errors
    /// When it does not answer within 1 s, or not with metrics.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn metric(&self, name: &str, label: &str) -> Result<f64, Error> {
        let attempted = || Error::new(format!("reading the metric `{name}` of `{}`", self.name));
        let said = ask(self.told_at(), "GET", "/metrics", "", ANSWER).await;
        let said = said.map_err(|e| attempted().with_source(e))?;
        let samples = said.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        let values: Option<Vec<f64>> = samples
            .filter(|line| line.contains(label))
            .map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        values.map(|values| values.iter().sum()).ok_or_else(attempted)
    }

    /// Where it answers in plain text.
    fn told_at(&self) -> SocketAddr {
        self.plain.as_ref().unwrap_or(&self.client).addr()
    }

    /// Whether its process runs; a frozen one does.
    pub fn is_running(&self) -> bool {
        self.lock().process.as_ref().is_some_and(|process| process.is_running())
    }

    /// Whether it runs and is not frozen.
    pub(super) fn answers(&self) -> bool {
        self.is_running() && !self.lock().is_frozen
    }

    /// Starts its process with the data it has, unless it runs. It answers some time later: see [`ready`](Self::ready).
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(&self) -> Result<(), Error> {
        let mut running = self.lock();
        if running.process.as_ref().is_none_or(|process| !process.is_running()) {
            let process = Program::new(&self.etcd).args(&self.args).named(&self.name).start()?;
            *running = Running { process: Some(Arc::new(process)), is_frozen: false };
        }
        Ok(())
    }

    /// Waits until it has answered a read that needs the quorum.
    ///
    /// # Errors
    /// When its process has ended, or it does not answer within `limit`; the error carries its output.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub async fn ready(&self, limit: Duration) -> Result<(), Error> {
        let until = Instant::now() + limit;
        loop {
            let answer = ask(self.told_at(), "GET", "/health", "", ANSWER).await;
            if answer.as_ref().is_ok_and(|body| body.contains("\"true\"")) {
                return Ok(());
            }
            let has_ended = !self.is_running();
            if has_ended || Instant::now() >= until {
                let why =
                    if has_ended { "it does not run".to_owned() } else { format!("not so after {limit:?}") };
                let error = self.error(format!("waiting until `{}` is healthy: {why}", self.name));
                return Err(match answer {
                    Ok(body) => error.with_source(std::io::Error::other(body)),
                    Err(e) => error.with_source(e),
                });
            }
            time::sleep(PAUSE).await;
        }
    }

    /// Starts it with the data it has and waits at most 30 s until it answers, which needs the quorum.
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

    /// Kills it by SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When it is still there after 5 s.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it killed.
    pub async fn kill9(&self) -> Result<(), Error> {
        self.strike();
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
        let process =
            process.ok_or_else(|| Error::new(format!("freezing `{}`: it does not run", self.name)))?;
        self.lock().is_frozen = true;
        process.freeze().await
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        let mut running = self.lock();
        if let Some(process) = &running.process {
            process.thaw();
        }
        running.is_frozen = false;
    }

    /// Deletes its data, so that the next start begins with none.
    ///
    /// # Errors
    /// When it runs, or its data cannot be deleted.
    pub fn wipe(&self) -> Result<(), Error> {
        if self.is_running() {
            return Err(Error::new(format!("wiping `{}`: it runs", self.name)));
        }
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::new(format!("wiping `{}`", self.name)).with_source(e))
            }
            _ => Ok(()),
        }
    }

    /// The signal of [`kill9`](Self::kill9) alone.
    pub(super) fn strike(&self) {
        if let Some(process) = &self.lock().process {
            process.kill9();
        }
    }

    /// What it says of itself, if it answers.
    pub(super) async fn status(&self) -> Option<Status> {
        // Over TLS it is not asked.
        if !self.answers() || self.plain.is_some() {
            return None;
        }
        let body = ask(self.addr(), "POST", "/v3/maintenance/status", "{}", ANSWER).await.ok()?;
        let status: serde_json::Value = serde_json::from_str(&body).ok()?;
        let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        Some(Status { id: text(&status["header"]["member_id"])?, leader: text(&status["leader"])? })
    }

    async fn gone(&self, limit: Duration) -> Result<(), Error> {
        let until = Instant::now() + limit;
        while self.is_running() {
            if Instant::now() >= until {
                return Err(self.error(format!(
                    "waiting for the end of `{}`: still running after {limit:?}",
                    self.name
                )));
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

fn client_url(port: &Port, tls: bool) -> String {
    if tls { port.url().replacen("http", "https", 1) } else { port.url() }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("name", &self.name).field("url", &self.url()).finish_non_exhaustive()
    }
}
