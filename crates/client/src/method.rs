//! What holds for single methods, as the author says it.

use std::{fmt, sync::Arc};

use http::HeaderName;
use meshwork_balance::Policy;
use meshwork_resilience::deadline::Limit;

use crate::LimitConfig;

/// What holds for one method; what is absent is the client's.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use meshwork_client::{ClientConfig, Limit, MethodConfig, balance::RingHash};
/// let mut get = MethodConfig::default();
/// get.timeout = Some(Limit::new(Duration::from_millis(300), "the code of orders"));
/// get.idempotent = true;
/// get.policy = Some(Arc::new(RingHash::default()));
/// let mut config = ClientConfig::default();
/// config.methods.insert("users.v1.Users/GetUser".into(), get);
/// ```
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct MethodConfig {
    /// The longest time of a call, its body included. Default `None`: the client's.
    pub timeout: Option<Limit>,
    /// The longest time of one attempt until the head of its answer. Default `None`: the client's.
    pub attempt_timeout: Option<Limit>,
    /// Whether it may run twice, so that a failed call may be tried again. Default `false`.
    pub idempotent: bool,
    /// Attempts of a call, the first included, 1 to 5 (more counts as 5). Default `None`: the client's.
    pub attempts: Option<u8>,
    /// Whether slow calls get a second attempt. Default `None`: as the client's.
    pub hedge: Option<bool>,
    /// How an instance is chosen, over the same nodes with the same statistics. Methods that share one `Arc` share
    /// a picker. Default `None`: as the client's.
    pub policy: Option<Arc<dyn Policy>>,
    /// The header whose value is the key of a call. Default `None`: the client's.
    pub hash_header: Option<HeaderName>,
    /// How many calls of it may run at a time and begin per second, besides what the client's own limit says.
    /// Default: as many as come.
    pub limit: LimitConfig,
}

impl MethodConfig {
    /// From its parts; all else as the client's.
    pub fn new(timeout: Option<Limit>, idempotent: bool) -> Self {
        Self { timeout, idempotent, ..Self::default() }
    }
}

impl fmt::Debug for MethodConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MethodConfig")
            .field("timeout", &self.timeout)
            .field("attempt_timeout", &self.attempt_timeout)
            .field("idempotent", &self.idempotent)
            .field("attempts", &self.attempts)
            .field("hedge", &self.hedge)
            .field("hash_header", &self.hash_header)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
