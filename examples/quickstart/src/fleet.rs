//! The greeter processes: started, killed, restarted.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use meshwork::BoxError;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

/// How long a greeter may take to stop gracefully.
const PATIENCE: Duration = Duration::from_secs(10);

/// One place of the fleet and the process in it.
pub(crate) struct Greeter {
    pub(crate) name: String,
    pub(crate) zone: String,
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) story: &'static str,
    child: Child,
    settings: Vec<(String, String)>,
}

impl Greeter {
    /// Starts the greeter of place `place`, counted from 1.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(crate) fn start(place: u16, settings: Vec<(String, String)>) -> io::Result<Self> {
        let zone = format!("zone{}", (place - 1) % 3 + 1);
        let version = "1.0.0".to_owned();
        let (child, pid) = spawn(&zone, &version, &settings)?;
        Ok(Self { name: format!("greeter-{place}"), zone, version, pid, story: "starting", child, settings })
    }

    /// kill -9.
    ///
    /// # Errors
    /// When the process cannot be killed.
    pub(crate) async fn kill(&mut self) -> io::Result<Instant> {
        let at = Instant::now();
        self.child.start_kill()?;
        self.child.wait().await?;
        self.story = "killed";
        Ok(at)
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it cannot be told, or does not stop in time.
    pub(crate) async fn stop(&mut self) -> Result<ExitStatus, BoxError> {
        let pid = Pid::from_raw(i32::try_from(self.pid)?).ok_or("process has no id")?;
        self.story = "stopping";
        kill_process(pid, Signal::TERM)?;
        Ok(timeout(PATIENCE, self.child.wait()).await??)
    }

    /// Starts a new process in this place.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(crate) fn restart(&mut self, version: &str) -> io::Result<Instant> {
        let at = Instant::now();
        (self.child, self.pid) = spawn(&self.zone, version, &self.settings)?;
        self.version = version.to_owned();
        self.story = "starting";
        Ok(at)
    }

    /// Whether the process ended although nobody asked it to.
    ///
    /// # Errors
    /// When that cannot be told.
    pub(crate) fn fell_over(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.story == "killed" { Ok(None) } else { self.child.try_wait() }
    }
}

/// This very executable, also when a build has replaced the file meanwhile.
fn executable() -> io::Result<PathBuf> {
    let own = Path::new("/proc/self/exe");
    if own.exists() { Ok(own.to_owned()) } else { env::current_exe() }
}

fn spawn(zone: &str, version: &str, settings: &[(String, String)]) -> io::Result<(Child, u32)> {
    let child = Command::new(executable()?)
        .arg0("greeter")
        .args(["greeter", "--zone", zone, "--version", version])
        .envs(settings.iter().map(|(key, value)| (key, value)))
        .envs([("MESHWORK_ENV", "dev"), ("MESHWORK__SERVICE__NAME", "greeter")])
        .env("MESHWORK_CONFIG_DIR", env::temp_dir())
        .env("RUST_LOG", env::var("RUST_LOG").unwrap_or_else(|_| "error".into()))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let pid = child.id().ok_or_else(|| io::Error::other("greeter ended at once"))?;
    Ok((child, pid))
}
