//! What the announcer holds for one registration.

use std::time::Duration;

use meshwork_core::{Error, Instance};
use tokio::{task::JoinHandle, time::Instant};

use crate::entry::{Entry, Identity};

/// The most former selves that are remembered.
const MAX_SELVES: usize = 16;

/// Everything that may stand at the agent for one registration.
pub(crate) struct Claim {
    /// The service id at the agent.
    pub(crate) id: String,
    /// Ids that were given up and may still stand.
    pub(crate) former: Vec<String>,
    /// What stands, as far as we know.
    pub(crate) written: Option<Entry>,
    /// Who we were in each record that was sent: what a record must name to be ours.
    pub(crate) selves: Vec<Identity>,
    /// Checks that were registered and are not wanted any more.
    pub(crate) stale_checks: Vec<String>,
    /// Whether we have put the service into maintenance ourselves.
    pub(crate) in_maintenance: bool,
    /// A registration under way: it goes on when whoever asked for it is cut, so that nothing that is sent
    /// later can overtake it.
    pub(crate) sent: Option<JoinHandle<Result<(), Error>>>,
    /// When the agent last confirmed that the record stands.
    pub(crate) confirmed: Instant,
    /// When the next heartbeat is due.
    pub(crate) beat_at: Instant,
}

impl Claim {
    pub(crate) fn new(instance: &Instance, now: Instant) -> Self {
        Self {
            id: instance.id.as_str().to_owned(),
            former: Vec::new(),
            written: None,
            selves: Vec::new(),
            stale_checks: Vec::new(),
            in_maintenance: false,
            sent: None,
            confirmed: now,
            beat_at: now,
        }
    }

    /// Goes on under another id; the old one is ended once the new one stands.
    pub(crate) fn rename(&mut self, instance: &Instance) {
        if self.id != instance.id.as_str() {
            let old = std::mem::replace(&mut self.id, instance.id.as_str().to_owned());
            self.former.push(old);
            (self.written, self.in_maintenance) = (None, false);
            self.selves.clear();
            self.stale_checks.clear();
        }
    }

    /// Notes who we say we are before it is written.
    pub(crate) fn note_self(&mut self, instance: &Instance) {
        let who = Identity::of(instance);
        if !self.selves.contains(&who) {
            if self.selves.len() >= MAX_SELVES {
                self.selves.remove(0);
            }
            self.selves.push(who);
        }
    }

    /// The record stands, as of now.
    pub(crate) fn confirm(&mut self, now: Instant, beat_in: Duration) {
        (self.confirmed, self.beat_at) = (now, now + beat_in);
    }
}
