//! Health checks that an author declares; each is a named part of the readiness.

mod probes;
mod script;
mod tally;

use std::{ffi::OsString, fmt, sync::Arc, time::Duration};

use http::Uri;
use meshwork_core::{BoxError, BoxFuture, Error, ErrorChain, Task};
use tokio::{task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use self::{
    script::Script,
    tally::{Answer, Tally},
};
use crate::{
    Handle, Outcome, Readiness,
    contain::judged,
    notice::{NoticeKind, NoticeState},
};

/// Until it passes for the first time it is asked at least this often: an app that starts waits for it.
const STARTING: Duration = Duration::from_secs(1);

type Code = Arc<dyn Fn() -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>;

/// What is asked.
enum Probe {
    Code(Code),
    Script(Script),
}

/// Something that is asked again and again whether it is well, in Kubernetes' words. Its name is a part of the readiness:
/// the app is not announced before it has passed once, and not ready while it fails.
///
/// ```
/// # use std::time::Duration;
/// # use meshwork::{App, Check};
/// # async fn ping() -> Result<(), std::io::Error> { Ok(()) }
/// let app = App::new()
///     .check(Check::tcp("database", "db.internal:5432").interval(Duration::from_secs(5)))
///     .check(Check::http("search", "http://127.0.0.1:9200/_cluster/health").failure_threshold(5))
///     .check(Check::script("disk", ["/usr/lib/nagios/plugins/check_disk", "-w", "10%", "-c", "5%"]))
///     .check(Check::new("cache", || ping()));
/// ```
#[must_use = "a check asks nothing until an app has it"]
pub struct Check {
    name: Box<str>,
    probe: Probe,
    fault: Option<String>,
    interval: Duration,
    timeout: Duration,
    failure_threshold: u32,
    success_threshold: u32,
}

impl Check {
    /// Asks a function: an error or a panic is a failure.
    pub fn new<F, Fut>(name: impl Into<Box<str>>, code: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        let code = Arc::new(code);
        let probe: Code = Arc::new(move || {
            let code = Arc::clone(&code);
            Box::pin(async move { code().await.into_result() })
        });
        Self::of(name.into(), Probe::Code(probe))
    }

    fn of(name: Box<str>, probe: Probe) -> Self {
        Self {
            name,
            probe,
            fault: None,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            failure_threshold: 3,
            success_threshold: 1,
        }
    }

    /// Opens a TCP connection to `host:port` and closes it.
    pub fn tcp(name: impl Into<Box<str>>, address: impl Into<String>) -> Self {
        let address: Arc<str> = address.into().into();
        Self::new(name, move || probes::tcp(Arc::clone(&address)))
    }

    /// `GET`s an `http://` URL on a new connection; a status from 200 to 399 passes.
    pub fn http(name: impl Into<Box<str>>, url: impl AsRef<str>) -> Self {
        let url = url.as_ref();
        let parsed = url.parse::<Uri>().ok().filter(|url| url.scheme_str() == Some("http"));
        let fault = parsed.is_none().then(|| format!("`{}` is no `http://` URL", url.escape_debug()));
        let url = parsed.unwrap_or_default();
        Self { fault, ..Self::new(name, move || probes::get(url.clone())) }
    }

    /// Asks `grpc.health.v1.Health` at `http://host:port` about `service` (empty for the whole server); only SERVING passes.
    pub fn grpc(name: impl Into<Box<str>>, url: impl AsRef<str>, service: impl Into<String>) -> Self {
        let (url, service) = (url.as_ref(), service.into());
        let endpoint = Endpoint::from_shared(url.to_owned())
            .ok()
            .filter(|endpoint| endpoint.uri().scheme_str() == Some("http"));
        let fault = endpoint.is_none().then(|| format!("`{}` is no `http://` URL", url.escape_debug()));
        let endpoint = endpoint.unwrap_or_else(|| Endpoint::from_static("http://127.0.0.1:1"));
        Self { fault, ..Self::new(name, move || probes::serving(endpoint.clone(), service.clone())) }
    }

    /// Runs a program, no shell: `argv` is the program and its arguments. Exit code 0 passes; 1 is a warning, which passes
    /// too but is told; any other, a signal and the [`timeout`](Self::timeout) fail, as with Consul and Nagios. The
    /// first 1 024 bytes of its output are the cause.
    ///
    /// It runs in a process group of its own, which is killed at the time-out, when the app stops, and when the program
    /// has ended and left something running with its output open. A program that is not there or cannot be executed is
    /// an error of the start. It gets the environment of this process, but for what systemd means for that alone.
    pub fn script<A: Into<OsString>>(name: impl Into<Box<str>>, argv: impl IntoIterator<Item = A>) -> Self {
        Self::of(name.into(), Probe::Script(Script::new(argv.into_iter().map(Into::into))))
    }

    /// The pause between two questions. Default 10 s; at most 1 s until it has passed once.
    pub fn interval(mut self, pause: Duration) -> Self {
        self.interval = pause;
        self
    }

    /// How long an answer may take. Default 1 s.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// How many failures in a row make it fail. Default 3, at least 1.
    pub fn failure_threshold(mut self, failures: u32) -> Self {
        self.failure_threshold = failures.max(1);
        self
    }

    /// How many passes in a row make it pass again after it failed. Default 1, at least 1.
    pub fn success_threshold(mut self, passes: u32) -> Self {
        self.success_threshold = passes.max(1);
        self
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// # Errors
    /// `Invalid`: what it cannot work with.
    pub(crate) fn judge(&self) -> Result<(), Error> {
        let invalid = |why: &str| Err(Error::invalid(format!("check `{}`: {why}", self.name)));
        if let Some(fault) = &self.fault {
            return invalid(fault);
        }
        if let Probe::Script(script) = &self.probe
            && let Err(fault) = script.find()
        {
            return invalid(&fault);
        }
        if self.name.is_empty() {
            return Err(Error::invalid("a check has an empty name"));
        }
        if self.interval.is_zero() || self.timeout.is_zero() {
            return invalid("its interval and its timeout must be longer than 0s");
        }
        Ok(())
    }

    /// Asks from now on, as long as the task lives.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn spawn(self, handle: &Handle) -> Task {
        // Now, so that nobody finds the app ready before it was asked.
        let readiness = handle.readiness(&*self.name);
        let name = format!("check {}", self.name);
        Task::new(name, CancellationToken::new(), tokio::spawn(self.ask(handle.clone(), readiness)))
    }

    async fn ask(self, handle: Handle, readiness: Readiness) {
        let mut tally = Tally::new(self.failure_threshold, self.success_threshold);
        loop {
            let (answer, cause) = self.once().await;
            let turned = tally.count(answer);
            if let Some(now) = turned {
                readiness.set(now != Answer::Fails);
            }
            let is_first = tally.is_first_failure(answer);
            self.say(&handle, turned, is_first, cause);
            let pause = if tally.has_passed() { self.interval } else { self.interval.min(STARTING) };
            time::sleep(pause).await;
        }
    }

    fn say(&self, handle: &Handle, turned: Option<Answer>, is_first: bool, cause: Option<String>) {
        let (check, error) = (&self.name, cause.as_deref().unwrap_or_default());
        let state = match turned {
            Some(Answer::Passes) => {
                tracing::info!(%check, "check passes");
                return handle.board().well(NoticeKind::Check, check);
            }
            Some(Answer::Warns) => {
                tracing::warn!(%check, error, "check passes with a warning");
                NoticeState::Warning
            }
            Some(Answer::Fails) => {
                tracing::warn!(%check, error, "check fails, not ready");
                NoticeState::Critical
            }
            None if is_first => {
                tracing::warn!(%check, error, "check does not pass yet, not ready");
                NoticeState::Critical
            }
            None => {
                if cause.is_some() {
                    tracing::debug!(%check, error, "check does not pass");
                }
                return;
            }
        };
        handle.board().trouble(NoticeKind::Check, check, state, cause);
    }

    /// One question: how it was answered, and what went wrong, for people.
    async fn once(&self) -> (Answer, Option<String>) {
        let code = match &self.probe {
            Probe::Code(code) => code(),
            Probe::Script(script) => return script.run(self.timeout).await,
        };
        let mut asking = JoinSet::new();
        asking.spawn(code);
        match time::timeout(self.timeout, asking.join_next()).await {
            Ok(ended) => match ended.map_or(Ok(()), judged) {
                Ok(()) => (Answer::Passes, None),
                Err(failure) => (Answer::Fails, Some(ErrorChain(&failure).to_string())),
            },
            Err(_elapsed) => (Answer::Fails, Some(format!("no answer within {:?}", self.timeout))),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_cannot_work_is_refused_by_name() {
        for check in [
            Check::http("search", "search.internal"),
            Check::http("search", "https://search.internal"),
            Check::grpc("search", "not a url", ""),
            Check::tcp("search", "a:1").interval(Duration::ZERO),
        ] {
            assert!(check.judge().unwrap_err().to_string().contains("`search`"));
        }
        assert!(Check::grpc("users", "http://127.0.0.1:80", "users.v1.Users").judge().is_ok());
    }
}
