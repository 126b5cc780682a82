//! What all parts share: the program, certificates, and how long everything takes.

use std::{path::Path, time::Duration};

use meshwork_tests::{Result, judge::Length, provider::Plan};

use super::fleet::{Certificates, Manners};

/// How long a view and a registry may take to be the truth, beyond the delay between them.
const TRUE: Duration = Duration::from_secs(1);

pub(super) struct Stage<'a> {
    pub(super) actor: &'a Path,
    pub(super) certificates: Certificates,
    pub(super) length: Length,
}

impl<'a> Stage<'a> {
    pub(super) fn new(actor: &'a Path, length: Length) -> Result<Self> {
        Ok(Self { actor, certificates: Certificates::new()?, length })
    }

    /// A process that is to settle for what callers need to hear of it, and a while.
    pub(super) fn plan(&self, delay: Duration) -> Plan {
        let spare = Duration::from_millis(self.length.pick(400, 1_000, 1_000));
        Manners::settling(delay + spare).of(Plan::provider())
    }

    /// Calls without a restart, before the first and after the last.
    pub(super) fn calm(&self) -> Duration {
        Duration::from_millis(self.length.pick(300, 1_000, 1_000))
    }

    /// Calls per second.
    pub(super) fn rate(&self) -> f64 {
        self.length.pick(250.0, 1_000.0, 1_000.0)
    }

    /// How long a view and a registry may take to be the truth.
    pub(super) fn truth_within(&self) -> Duration {
        self.length.allows(TRUE)
    }
}
