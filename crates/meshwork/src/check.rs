//! Health checks that an author declares; each is a named part of the readiness.

use std::{error::Error as _, fmt, sync::Arc, time::Duration};

use axum::body::Body;
use http::{Request, Uri, header::HOST};
use hyper_util::rt::TokioIo;
use meshwork_core::{BoxError, BoxFuture, Error, ErrorChain, Task};
use tokio::{net::TcpStream, select, task::JoinSet, time};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{Handle, Outcome, Readiness, contain::judged};

/// Until it passes for the first time it is asked at least this often: an app that starts waits for it.
const STARTING: Duration = Duration::from_secs(1);

type Probe = Arc<dyn Fn() -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>;

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
        let probe: Probe = Arc::new(move || {
            let code = Arc::clone(&code);
            Box::pin(async move { code().await.into_result() })
        });
        Self {
            name: name.into(),
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
        Self::new(name, move || tcp(Arc::clone(&address)))
    }

    /// `GET`s an `http://` URL on a new connection; a status from 200 to 399 passes.
    pub fn http(name: impl Into<Box<str>>, url: impl AsRef<str>) -> Self {
        let url = url.as_ref();
        let parsed = url.parse::<Uri>().ok().filter(|url| url.scheme_str() == Some("http"));
        let fault = parsed.is_none().then(|| format!("`{}` is no `http://` URL", url.escape_debug()));
        let url = parsed.unwrap_or_default();
        Self { fault, ..Self::new(name, move || get(url.clone())) }
    }

    /// Asks `grpc.health.v1.Health` at `http://host:port` about `service` (empty for the whole server); only SERVING passes.
    pub fn grpc(name: impl Into<Box<str>>, url: impl AsRef<str>, service: impl Into<String>) -> Self {
        let (url, service) = (url.as_ref(), service.into());
        let endpoint = Endpoint::from_shared(url.to_owned())
            .ok()
            .filter(|endpoint| endpoint.uri().scheme_str() == Some("http"));
        let fault = endpoint.is_none().then(|| format!("`{}` is no `http://` URL", url.escape_debug()));
        let endpoint = endpoint.unwrap_or_else(|| Endpoint::from_static("http://127.0.0.1:1"));
        Self { fault, ..Self::new(name, move || serving(endpoint.clone(), service.clone())) }
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
        let readiness = handle.readiness(&*self.name);
        let name = format!("check {}", self.name);
        Task::new(name, CancellationToken::new(), tokio::spawn(self.ask(readiness)))
    }

    async fn ask(self, readiness: Readiness) {
        let mut tally = Tally::new(self.failure_threshold, self.success_threshold);
        loop {
            let answer = self.once().await;
            let turned = tally.count(answer.is_ok());
            if let Some(passes) = turned {
                readiness.set(passes);
            }
            let (name, error) = (&self.name, answer.err());
            match (turned, error) {
                (Some(true), _) => tracing::info!(check = %name, "check passes"),
                (Some(false), Some(error)) => tracing::warn!(check = %name, error, "check fails, not ready"),
                (None, Some(error)) if tally.is_first_failure() => {
                    tracing::warn!(check = %name, error, "check does not pass yet, not ready");
                }
                (_, Some(error)) => tracing::debug!(check = %name, error, "check failed"),
                (_, None) => {}
            }
            let pause = if tally.has_passed { self.interval } else { self.interval.min(STARTING) };
            time::sleep(pause).await;
        }
    }

    /// One question; what went wrong, for people.
    async fn once(&self) -> Result<(), String> {
        let mut asking = JoinSet::new();
        asking.spawn((self.probe)());
        match time::timeout(self.timeout, asking.join_next()).await {
            Ok(Some(ended)) => judged(ended).map_err(|failure| ErrorChain(&failure).to_string()),
            Ok(None) => Ok(()),
            Err(_elapsed) => Err(format!("no answer within {:?}", self.timeout)),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Whether something passes, from a row of answers.
#[derive(Debug)]
struct Tally {
    failure_threshold: u32,
    success_threshold: u32,
    has_passed: bool,
    passes: bool,
    /// Answers in a row that say the other thing.
    against: u32,
    failures: u32,
}

impl Tally {
    fn new(failure_threshold: u32, success_threshold: u32) -> Self {
        Self {
            failure_threshold,
            success_threshold,
            has_passed: false,
            passes: false,
            against: 0,
            failures: 0,
        }
    }

    /// Counts one answer. Says what it is now, if it turned. The first pass of all counts at once.
    fn count(&mut self, passed: bool) -> Option<bool> {
        self.failures = if passed { 0 } else { self.failures.saturating_add(1) };
        if passed == self.passes {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let enough = match (passed, self.has_passed) {
            (true, false) => 1,
            (true, true) => self.success_threshold,
            (false, _) => self.failure_threshold,
        };
        if self.against < enough {
            return None;
        }
        (self.passes, self.against) = (passed, 0);
        self.has_passed |= passed;
        Some(passed)
    }

    /// Whether it has failed once and never passed.
    fn is_first_failure(&self) -> bool {
        !self.has_passed && self.failures == 1
    }
}

async fn tcp(address: Arc<str>) -> Result<(), BoxError> {
    TcpStream::connect(&*address).await?;
    Ok(())
}

async fn get(url: Uri) -> Result<(), BoxError> {
    let host = url.host().ok_or("no host in the URL")?;
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), url.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let authority = url.authority().map(|authority| authority.as_str().to_owned()).unwrap_or_default();
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, authority).body(Body::empty())?;
    let answer = select! {
        // The answer first: the connection may end with it.
        biased;
        answer = sender.send_request(request) => answer?,
        ended = connection => return Err(ended.err().map_or("closed without an answer".into(), Into::into)),
    };
    let status = answer.status();
    match status.is_success() || status.is_redirection() {
        true => Ok(()),
        false => Err(format!("answered {status}").into()),
    }
}

async fn serving(endpoint: Endpoint, service: String) -> Result<(), BoxError> {
    let channel = endpoint.connect().await.map_err(|error| match error.source() {
        // "transport error" alone says nothing.
        Some(source) => BoxError::from(ErrorChain(source).to_string()),
        None => error.into(),
    })?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest { service }).await;
    let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        other => Err(format!("answered {}", other.as_str_name()).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_after_as_many_answers_in_a_row_as_its_thresholds_say() {
        let mut tally = Tally::new(3, 2);
        let mut turns = |answers: &str| -> Vec<Option<bool>> {
            answers.chars().map(|answer| tally.count(answer == '+')).collect()
        };
        // The first pass of all is enough.
        assert_eq!(turns("--+"), [None, None, Some(true)]);
        assert_eq!(turns("--+--"), [None; 5]);
        assert_eq!(turns("-"), [Some(false)]);
        assert_eq!(turns("+-+"), [None; 3]);
        assert_eq!(turns("+"), [Some(true)]);
    }

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
