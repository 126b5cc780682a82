//! The settings of the drivers, each with a default that fits most registries.

use std::time::Duration;

/// How the drivers of one backend behave. Start from the default and change fields:
///
/// ```
/// # use std::time::Duration;
/// # use meshwork_registry::DriverOptions;
/// let mut options = DriverOptions::default().with_ttl(Duration::from_secs(10));
/// options.linger = Duration::from_secs(5);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DriverOptions {
    /// The longest that one claim, update or release may take. Default 3 s.
    pub request_timeout: Duration,
    /// The longest that a subscription may take to its first complete set, waiting for its turn not
    /// counted. Default 10 s.
    pub list_timeout: Duration,
    /// The shortest time between two publications of one view; the first change after a calm is
    /// published at once. Default 20 ms.
    pub coalesce: Duration,
    /// How long a subscription lives on after its last watch, unless the last handle to its backend is gone.
    /// Default 30 s.
    pub linger: Duration,
    /// The longest that leaving takes: mark and release together. Default 2 s.
    pub leave_within: Duration,
    /// How fast lost registrations and subscriptions are tried again.
    pub healing: Healing,
    /// Whether claims are made anew after the process stood still for a third of their time to live, and for more than
    /// a second. Default true; false where nobody ends the claim of a process that lives, and holding it verifies it.
    pub heeds_pauses: bool,
    /// How many subscriptions may be reading their first set at once. Default 16; 0 counts as 1.
    pub lists: usize,
    /// The most instances of one view; further ones are refused and counted. Default 20 000.
    pub max_records: usize,
    /// The most bytes (estimated) of one view; what exceeds it is refused and counted. Default 32 MiB.
    pub max_bytes: usize,
    /// The shortest time between two log lines about one outage. Default 30 s.
    pub log_every: Duration,
    /// The seed of all jitter. Default `None`: from the operating system.
    pub seed: Option<u64>,
}

impl Default for DriverOptions {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(3),
            list_timeout: Duration::from_secs(10),
            coalesce: Duration::from_millis(20),
            linger: Duration::from_secs(30),
            leave_within: Duration::from_secs(2),
            healing: Healing::default(),
            heeds_pauses: true,
            lists: 16,
            max_records: 20_000,
            max_bytes: 32 * 1024 * 1024,
            log_every: Duration::from_secs(30),
            seed: None,
        }
    }
}

impl DriverOptions {
    /// With the time to live of this backend's claims.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.healing.ttl = ttl;
        self
    }

    /// With a seed for all jitter, so that a test can be repeated.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
}

/// How fast what was lost is tried again. Every delay is drawn evenly from zero to its window ("full
/// jitter"), so that many processes that lost a registry together do not return together.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Healing {
    /// The time to live of a claim. Default 15 s. When the registry was lost, claims are tried again
    /// within half of it; a process that stood still for more than a third of it verifies its claims.
    pub ttl: Duration,
    /// The window after a loss of our own, while the registry is there; it doubles up to 1.5 s when
    /// losses follow each other. Default 500 ms.
    pub own_loss: Duration,
    /// The first window of whatever was never there yet, and of a subscription; it doubles. Default 200 ms.
    pub first: Duration,
    /// The widest window of a subscription and of the drive; the drive's is at most a quarter of `ttl`, since a
    /// registry that returns gives its leases their whole time again, and no more. Default 5 s.
    pub cap: Duration,
    /// The least delay after an error that waiting cannot mend. Default 60 s.
    pub slow: Duration,
}

impl Default for Healing {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(15),
            own_loss: Duration::from_millis(500),
            first: Duration::from_millis(200),
            cap: Duration::from_secs(5),
            slow: Duration::from_secs(60),
        }
    }
}
