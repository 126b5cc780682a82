//! Why an `App` did not run to its end, and the exit code that says so.

use std::{fmt, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use meshwork_config::ConfigError;
use meshwork_core::{BoxError, Error, ErrorChain};
use meshwork_server::BindError;

/// Why [`App::serve`](crate::App::serve) ended with an error. Each kind has an exit code of its own, which
/// [`App::run`](crate::App::run) returns.
///
/// | code | meaning |
/// |---|---|
/// | 0 | stopped as asked, everything finished |
/// | 1 | anything not listed here |
/// | 2 | the configuration, or what the code handed to the `App`, is wrong |
/// | 3 | a listener could not be bound |
/// | 4 | the registry did not take the instance within `registry.start_timeout` |
/// | 5 | a component, a `warm_up` or `on_serving` hook failed or was not done in time, a part did not become ready, or an eager channel found nobody |
/// | 6 | stopped as asked, but something was cut: calls in flight at the deadline, or what overran its budget |
/// | 7 | the job of `--job=NAME` failed |
/// | 8 | a task that the app cannot do without failed, and the app stopped |
/// | 128 + n | a second signal `n` ended the drain at once |
#[non_exhaustive]
pub enum RunError {
    /// The configuration is wrong.
    Config(ConfigError),
    /// What the code handed to the `App` cannot work: a service name, a registry, a target.
    Setup(Error),
    /// A listener could not be bound.
    Bind(BindError),
    /// There is no address that could be announced.
    Advertise {
        /// Where the listener is bound.
        bound: SocketAddr,
        /// What is missing and where to set it.
        reason: Box<str>,
    },
    /// The registry did not take the instance in time.
    Registry {
        /// The registry, as the banner names it.
        registry: Box<str>,
        /// How long it was tried.
        waited: Duration,
        /// The last that was met.
        cause: Option<Arc<Error>>,
    },
    /// A component, a hook, a part's readiness or an eager channel failed at start.
    Start {
        /// Which one.
        step: Box<str>,
        /// Why.
        cause: BoxError,
    },
    /// A job failed.
    Job {
        /// Which one.
        job: Box<str>,
        /// Why.
        cause: BoxError,
    },
}

impl RunError {
    /// The exit code of this error, 1 to 255.
    pub fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Setup(_) | Self::Advertise { .. } => 2,
            Self::Bind(_) => 3,
            Self::Registry { .. } => 4,
            Self::Start { .. } => 5,
            Self::Job { .. } => 7,
        }
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(_) => f.write_str("reading the configuration"),
            Self::Setup(_) => f.write_str("setting up the app"),
            Self::Bind(_) => f.write_str("binding a listener"),
            Self::Advertise { bound, reason } => write!(f, "no address to announce for {bound}: {reason}"),
            Self::Registry { registry, waited, .. } => write!(
                f,
                "not announced at {registry} within {waited:?}; start it, correct `[registry]`, or set \
                 `registry.required = false` to serve unannounced until it is back"
            ),
            Self::Start { step, .. } => write!(f, "starting: {step}"),
            Self::Job { job, .. } => write!(f, "running {job}"),
        }
    }
}

impl std::error::Error for RunError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Config(source) => Some(source),
            Self::Setup(source) => Some(source),
            Self::Bind(source) => Some(source),
            Self::Advertise { .. } => None,
            Self::Registry { cause, .. } => cause.as_deref().map(|cause| cause as _),
            Self::Start { cause, .. } | Self::Job { cause, .. } => Some(&**cause),
        }
    }
}

/// Prints the chain of causes, since `fn main() -> Result<_, _>` prints errors with `Debug`.
impl fmt::Debug for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&ErrorChain(self), f)
    }
}

impl From<ConfigError> for RunError {
    fn from(source: ConfigError) -> Self {
        Self::Config(source)
    }
}

impl From<Error> for RunError {
    fn from(source: Error) -> Self {
        Self::Setup(source)
    }
}

impl From<BindError> for RunError {
    fn from(source: BindError) -> Self {
        Self::Bind(source)
    }
}

impl From<&RunError> for ExitCode {
    fn from(error: &RunError) -> Self {
        Self::from(error.code())
    }
}
