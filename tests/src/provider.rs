//! Provider processes: the binary `actor`, started with settings, read by its events.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::Path,
    time::Duration,
};

use meshwork_testkit::{
    ports::Port,
    process::{Process, Program},
};

use crate::{
    ENVIRONMENT, Result, SERVICE,
    behave::Controls,
    event::{Event, Ready, Stopped},
};

/// How long a process may take until it serves, or until it says why not.
pub const START: Duration = Duration::from_secs(30);

/// The settings of a process, before it is started; each is an environment variable.
#[derive(Clone, Debug)]
#[must_use = "nothing runs before `start`"]
pub struct Plan {
    role: &'static str,
    settings: BTreeMap<String, String>,
}

/// A provider that was started. Dropping it kills the process.
#[derive(Debug)]
pub struct Provider {
    process: Process,
    ready: Ready,
}

// === impl Plan ===

impl Plan {
    /// A provider of [`SERVICE`] on a free port, that says its events and stops as asked.
    pub fn provider() -> Self {
        Self { role: "provider", settings: BTreeMap::new() }.service("name", SERVICE)
    }

    /// The same service under `App::run`, which has the documented exit codes and says nothing.
    pub fn run() -> Self {
        Self { role: "run", ..Self::provider() }
    }

    /// A setting of `[service]`.
    pub fn service(self, key: &str, value: impl Into<String>) -> Self {
        self.config(&format!("service.{key}"), value)
    }

    /// Listens on `port` of 127.0.0.1.
    pub fn on(self, port: &Port) -> Self {
        self.at(port.addr())
    }

    /// Listens at `addr`.
    pub fn at(self, addr: SocketAddr) -> Self {
        self.service("http", addr.to_string())
    }

    /// Announces itself nowhere.
    pub fn unannounced(self) -> Self {
        self.config("registry.use", "none")
    }

    /// Announces itself at these etcd servers.
    pub fn etcd(self, endpoints: &[String]) -> Self {
        self.config("registry.use", "etcd").config("registry.etcd.endpoints", format!("{endpoints:?}"))
    }

    /// Announces itself at this Consul agent.
    pub fn consul(self, address: &str) -> Self {
        self.config("registry.use", "consul").config("registry.consul.address", address)
    }

    /// Announces itself in this directory.
    pub fn local(self, dir: &Path) -> Self {
        self.config("registry.use", "local").config("registry.local.dir", dir.display().to_string())
    }

    /// A key of the configuration, written with dots.
    pub fn config(self, key: &str, value: impl Into<String>) -> Self {
        self.env(&format!("MESHWORK__{}", key.replace('.', "__").to_uppercase()), value)
    }

    /// Under this name instead of [`SERVICE`].
    pub fn named(self, service: &str) -> Self {
        self.service("name", service)
    }

    /// Each `Get` asks this service in turn, as a call that may be retried, and answers as it does.
    pub fn before(self, service: &str) -> Self {
        self.env("ACTOR_NEXT", service)
    }

    /// Any variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.settings.insert(name.to_owned(), value.into());
        self
    }

    /// The program as it would be started, for tests that want more of it.
    pub fn program(&self, actor: &Path) -> Program {
        self.told_to(Program::new(actor).arg(self.role))
    }

    /// The same with a socket that listens already, as systemd hands it over: whoever connects while no process is
    /// there waits in it.
    ///
    /// # Errors
    /// When the socket cannot be shared.
    pub fn program_with(&self, actor: &Path, socket: &TcpListener) -> Result<Program> {
        // A shell puts the descriptor under the right number and says its own process id, which exec keeps.
        let script = "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$0\" \"$1\"";
        let program = Program::new("/bin/sh").args(["-c", script]).arg(actor).arg(self.role).named("actor");
        Ok(self.told_to(program).stdin(OwnedFd::from(socket.try_clone()?)))
    }

    fn told_to(&self, program: Program) -> Program {
        let program = program
            .dir(std::env::temp_dir())
            .env("MESHWORK_ENV", ENVIRONMENT)
            .env("RUST_LOG", "info")
            .env("NO_COLOR", "1");
        self.settings.iter().fold(program, |program, (name, value)| program.env(name, value))
    }

    /// Starts a process without waiting for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&self, actor: &Path) -> Result<Process> {
        Ok(self.program(actor).start()?)
    }

    /// Starts a process and waits until it serves.
    ///
    /// # Errors
    /// When it does not within [`START`]; the error has what it printed.
    ///
    /// # Cancel safety
    /// Dropping the future kills the process.
    pub async fn start(&self, actor: &Path) -> Result<Provider> {
        Provider::of(self.launch(actor)?).await
    }
}

// === impl Provider ===

impl Provider {
    /// Waits until a process that was launched serves.
    ///
    /// # Errors
    /// When it does not within [`START`].
    ///
    /// # Cancel safety
    /// Dropping the future kills the process.
    pub async fn of(process: Process) -> Result<Self> {
        let ready = match event(&process, |event| !matches!(event, Event::Hook { .. }), START).await? {
            Event::Ready(ready) => ready,
            other => return Err(format!("`{}` does not serve: {other:?}", process.name()).into()),
        };
        Ok(Self { process, ready })
    }

    /// The process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Its id in the registry.
    pub fn id(&self) -> &str {
        &self.ready.id
    }

    /// Its process id, which its answers carry.
    pub fn pid(&self) -> u32 {
        self.ready.pid
    }

    /// Its first listener.
    ///
    /// # Panics
    /// When it has none, which the actor always has.
    pub fn addr(&self) -> SocketAddr {
        self.ready.addrs[0]
    }

    /// The door to its behaviour and its counts.
    pub fn controls(&self) -> Controls {
        Controls::of(self.addr())
    }

    /// All its listeners, HTTP first.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.ready.addrs
    }

    /// Waits for its next event for which `is_it` holds.
    ///
    /// # Errors
    /// When there is none within `limit`.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn event(&self, is_it: impl Fn(&Event) -> bool, limit: Duration) -> Result<Event> {
        event(&self.process, is_it, limit).await
    }

    /// Kills it by SIGKILL and waits until it is gone.
    ///
    /// # Errors
    /// When it is still there after 5 s.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it killed.
    pub async fn kill9(&self) -> Result<()> {
        self.process.kill9();
        self.process.ended(Duration::from_secs(5)).await?;
        Ok(())
    }

    /// Waits for its own report on its stop, which somebody asked for, and for its end.
    ///
    /// # Errors
    /// When it does not stop within `limit`.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn stopped(&self, limit: Duration) -> Result<Stopped> {
        let event = self.event(|event| matches!(event, Event::Stopped(_)), limit).await?;
        let status = self.process.ended(limit).await?;
        match event {
            Event::Stopped(stopped) if status.code() == Some(i32::from(stopped.code)) => Ok(stopped),
            other => Err(format!("`{}` ended with {status} after {other:?}", self.process.name()).into()),
        }
    }

    /// Asks it to stop and waits for its report.
    ///
    /// # Errors
    /// When it does not stop within `limit`.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it asked to stop.
    pub async fn stop(&self, limit: Duration) -> Result<Stopped> {
        self.process.terminate();
        self.stopped(limit).await
    }
}

async fn event(process: &Process, is_it: impl Fn(&Event) -> bool, limit: Duration) -> Result<Event> {
    let line = process
        .wait_for_line(|line| Event::read(line).is_some_and(|event| is_it(&event)), limit)
        .await
        .map_err(|error| format!("{error:?}"))?;
    Event::read(&line).ok_or_else(|| format!("`{line}` is no event").into())
}
