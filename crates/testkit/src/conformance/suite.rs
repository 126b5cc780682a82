//! The list of all behaviours.

use meshwork_core::BoxFuture;

use super::{bench::Bench, flaw::Proof};

/// Where a behaviour stands in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Setting {
    /// Beside others, on a server that nobody disturbs.
    Calm,
    /// Alone, on a server that nobody disturbs.
    Alone,
    /// The server stops and starts again with what it kept.
    Stopped,
    /// The server loses everything.
    Wiped,
    /// The server stands still and goes on.
    Frozen,
    /// One of several servers stops and starts again.
    OneLost,
}

/// One behaviour: its name is the sentence that it proves.
#[derive(Clone, Copy)]
pub struct Behaviour {
    pub(super) name: &'static str,
    pub(super) group: &'static str,
    pub(super) because: &'static str,
    pub(super) setting: Setting,
    pub(super) prove: fn(Bench) -> BoxFuture<'static, Proof>,
}

impl Behaviour {
    /// The sentence, as a name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The group it belongs to.
    pub fn group(&self) -> &'static str {
        self.group
    }

    /// Why it must be so: the clause of a contract, or a thread in which users of comparable projects tell what they
    /// suffer without it.
    pub fn because(&self) -> &'static str {
        self.because
    }
}

/// Lists the behaviours of a file.
macro_rules! group {
    ($group:literal: $($setting:ident $name:ident = $because:literal,)+) => {
        /// The behaviours of this file.
        pub(in crate::conformance) const ALL: &[$crate::conformance::suite::Behaviour] = &[$(
            $crate::conformance::suite::Behaviour {
                name: stringify!($name),
                group: $group,
                because: $because,
                setting: $crate::conformance::suite::Setting::$setting,
                prove: |bench| Box::pin($name(bench)),
            },
        )+];
    };
}
pub(super) use group;

/// All behaviours, in the order of the reports.
pub fn behaviours() -> impl Iterator<Item = &'static Behaviour> {
    use super::behaviours as files;
    [
        files::finding::ALL,
        files::watching::ALL,
        files::announcing::ALL,
        files::records::ALL,
        files::leaving::ALL,
        files::ids::ALL,
        files::hostile::ALL,
        files::healing::ALL,
        files::links::ALL,
        files::ends::ALL,
        files::sharing::ALL,
        files::stopped::ALL,
        files::wiped::ALL,
        files::frozen::ALL,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::behaviours;

    #[test]
    fn each_behaviour_is_a_sentence_that_stands_once_and_says_why() {
        let names: HashSet<&str> = behaviours().map(|behaviour| behaviour.name()).collect();
        assert_eq!(names.len(), behaviours().count());
        assert!(names.len() >= 40);
        assert!(behaviours().all(|behaviour| behaviour.name().matches('_').count() >= 2));
        assert!(behaviours().all(|behaviour| !behaviour.because().is_empty()));
    }
}
