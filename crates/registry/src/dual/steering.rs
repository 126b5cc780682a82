//! Changes what a dual registry writes and reads while it runs.

use std::{fmt, sync::Arc};

use tokio::sync::watch;

use super::{Policy, Read, Write};

/// Changes where a running [`Dual`](super::Dual) announces and what it finds. Clones steer the same one.
///
/// A side that is newly written is registered at; a side that is not written any more is left without
/// the `leaving` mark, since the process lives on. Watches change what they show; instances that both
/// sides know keep their connections. The steps of a migration stand at [`Dual`](super::Dual).
#[derive(Clone)]
pub struct Steering {
    policy: Arc<watch::Sender<Policy>>,
}

impl Steering {
    pub(super) fn new(policy: Policy) -> Self {
        Self { policy: Arc::new(watch::Sender::new(policy)) }
    }

    /// Announces there from now on. Returns at once; the registrations follow.
    pub fn write(&self, write: Write) {
        self.change(|policy| policy.write = write);
    }

    /// Finds those from now on. Returns at once; the watches follow.
    pub fn read(&self, read: Read) {
        self.change(|policy| policy.read = read);
    }

    /// The policy as it is now.
    pub fn policy(&self) -> Policy {
        *self.policy.borrow()
    }

    pub(super) fn policies(&self) -> watch::Receiver<Policy> {
        self.policy.subscribe()
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Policy)) {
        self.policy.send_if_modified(|policy| {
            let before = *policy;
            change(policy);
            *policy != before
        });
    }
}

impl fmt::Debug for Steering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Steering").field(&self.policy()).finish()
    }
}
