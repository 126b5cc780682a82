//! Two registries as one: announced on both, found as their union, so that a service can move from one to
//! the other without anybody noticing.

mod config;
mod stats;
mod steering;

use std::{fmt, sync::Arc, time::Duration};

use meshwork_core::{Backend, Error, ErrorKind, Parts};

pub use config::{DualConfig, Policy, Read, Side, Start, Write};
pub use stats::{Difference, Disagreement, DualStats, SideStats, Standing};
pub use steering::Steering;

/// Two registries as one. Clones share everything.
#[derive(Clone)]
pub struct Dual {
    sides: [Arc<dyn Backend>; 2],
    names: [Arc<str>; 2],
    steering: Steering,
    stats: Arc<DualStats>,
}

impl Dual {
    /// Announces on both and finds the union; one of them is enough to start.
    pub fn new(primary: impl Backend, secondary: impl Backend) -> Self {
        Self {
            sides: [Arc::new(primary), Arc::new(secondary)],
            names: ["".into(), "".into()],
            steering: Steering::new(Policy::default()),
            stats: Arc::default(),
        }
    }

    /// The same as a table of the configuration says. The registries that the table names are given
    /// opened or not; [`Parts`] are a backend that is open already.
    pub fn with_config(primary: impl Backend, secondary: impl Backend, config: &DualConfig) -> Self {
        let dual = Self::new(primary, secondary).named(&config.primary, &config.secondary);
        dual.steering.change(|policy| *policy = config.policy());
        dual
    }

    /// What logs and errors call the sides. By default what each says of itself.
    #[must_use]
    pub fn named(mut self, primary: &str, secondary: &str) -> Self {
        self.names = [primary.into(), secondary.into()];
        self
    }

    /// Announces there. Default both.
    #[must_use]
    pub fn write(self, write: Write) -> Self {
        self.steering.write(write);
        self
    }

    /// Finds those. Default the union.
    #[must_use]
    pub fn read(self, read: Read) -> Self {
        self.steering.read(read);
        self
    }

    /// What it takes to be announced. Default any.
    #[must_use]
    pub fn start(self, start: Start) -> Self {
        self.steering.change(|policy| policy.start = start);
        self
    }

    /// Reports a disagreement that lasts this long. Default 30 s.
    #[must_use]
    pub fn report_after(self, disagreement: Duration) -> Self {
        self.steering.change(|policy| policy.disagreement = disagreement);
        self
    }

    /// The handle that changes writing and reading while it runs.
    pub fn steering(&self) -> Steering {
        self.steering.clone()
    }

    /// What it counts, and where its sides disagree.
    pub fn stats(&self) -> &Arc<DualStats> {
        &self.stats
    }
}

impl Backend for Dual {
    fn open(&self) -> Result<Parts, Error> {
        for side in &self.sides {
            side.open()?;
        }
        Err(Error::new(ErrorKind::Unsupported, "opening a dual registry"))
    }
}

impl fmt::Debug for Dual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dual")
            .field("names", &self.names)
            .field("policy", &self.steering.policy())
            .finish_non_exhaustive()
    }
}
