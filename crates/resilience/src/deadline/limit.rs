//! A time limit and where it was set.

use std::{borrow::Cow, fmt, time::Duration};

use http::HeaderValue;
use meshwork_core::timeout;

/// A time limit and where it was set, so that an error can say which one passed.
///
/// ```
/// use std::time::Duration;
/// use meshwork_resilience::deadline::Limit;
/// let limit = Limit::new(Duration::from_millis(800), "[client.users] timeout, config/prod.toml:12");
/// assert_eq!(limit.to_string(), "800ms from [client.users] timeout, config/prod.toml:12");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    duration: Duration,
    origin: Cow<'static, str>,
    yields: bool,
    /// As it travels in a header; written once.
    header: HeaderValue,
}

impl Limit {
    /// A limit; `origin` says where it was set: the key and its source.
    pub fn new(duration: Duration, origin: impl Into<Cow<'static, str>>) -> Self {
        let header = HeaderValue::try_from(timeout::encode(duration))
            .expect("invariant: digits and a letter are a header value");
        Self { duration, origin: origin.into(), yields: false, header }
    }

    /// A limit nobody chose: it yields to a longer one that the caller chose.
    pub fn fallback(duration: Duration, origin: impl Into<Cow<'static, str>>) -> Self {
        Self { yields: true, ..Self::new(duration, origin) }
    }

    /// As it travels in a header.
    pub fn header(&self) -> &HeaderValue {
        &self.header
    }

    /// Whether it yields to what the caller chose.
    pub fn yields(&self) -> bool {
        self.yields
    }

    /// How long.
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Where it was set.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

impl From<Duration> for Limit {
    /// A limit set in code.
    fn from(duration: Duration) -> Self {
        Self::new(duration, "the client's configuration in code")
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} from {}", self.duration, self.origin)
    }
}
