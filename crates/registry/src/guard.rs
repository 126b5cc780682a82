//! Decides which removals of a registry are believed.
//!
//! The reflector asks here before it takes an instance out of a view, and hands over what clients saw of
//! it. Today every removal is believed.

use meshwork_core::{Instance, Seen};
use tokio::time::Instant;

/// How an instance came to be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Absence {
    /// Its removal was seen as an event.
    Removed,
    /// A complete set was read in which it is not.
    Unlisted,
}

/// The removals of one view: decides, and counts what it was told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removals {
    /// Removals seen as events.
    pub removed: u64,
    /// Instances that were missing in a complete set.
    pub unlisted: u64,
    /// How often a connection showed that an instance is itself.
    pub itself: u64,
    /// How often an address refused the connection.
    pub refused: u64,
    /// How often somebody else answered at an address.
    pub another: u64,
    /// How often an instance said that it is draining.
    pub draining: u64,
}

impl Removals {
    /// Whether `instance`, of `members` in the view, is to be removed now. Today always: who is not
    /// removed here stays in the view as `held`.
    pub fn believes(&mut self, _instance: &Instance, how: Absence, _members: usize, _now: Instant) -> bool {
        match how {
            Absence::Removed => self.removed += 1,
            Absence::Unlisted => self.unlisted += 1,
        }
        true
    }

    /// Takes what a connection showed of `instance`; says whether that alone removes it for good. It does
    /// when a Meshwork process says that it is draining: it never takes that back under this id. A foreign
    /// id may be an address that is used again.
    pub fn saw(&mut self, instance: &Instance, what: Seen, _now: Instant) -> bool {
        match what {
            Seen::Itself => self.itself += 1,
            Seen::Refused => self.refused += 1,
            Seen::Another => self.another += 1,
            Seen::Draining => {
                self.draining += 1;
                return instance.is_native();
            }
            _ => {}
        }
        false
    }
}
