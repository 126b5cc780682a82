//! What is in trouble, and what of that was told: decides which turns become notices. No clock, no channel.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use meshwork_core::Timestamp;
use tokio::time::Instant;

use super::{NoticeKind, NoticeState};

/// The most things in trouble that are kept apart; a fleet that dies at once is told by the first of them.
const MOST: usize = 1_024;

/// What can be in trouble.
pub(super) type Subject = (NoticeKind, Arc<str>);

/// Trouble that is not over.
#[derive(Debug)]
struct Trouble {
    state: NoticeState,
    cause: Option<Arc<str>>,
    began: Instant,
    since: Timestamp,
    /// How it stood when it was told last.
    told: Option<NoticeState>,
}

/// Something to tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) subject: Subject,
    pub(super) state: NoticeState,
    pub(super) since: Timestamp,
    /// For how long, of what is over.
    pub(super) lasted: Duration,
    pub(super) cause: Option<Arc<str>>,
    /// How many things are in trouble after this turn, told ones.
    pub(super) open: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ledger {
    delay: Duration,
    open: BTreeMap<Subject, Trouble>,
}

impl Ledger {
    pub(super) fn new(delay: Duration) -> Self {
        Self { delay, open: BTreeMap::new() }
    }

    pub(super) fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Something is not well, as it may have been before. It is told by [`due`](Self::due) once it has lasted.
    pub(super) fn trouble(
        &mut self,
        subject: Subject,
        state: NoticeState,
        cause: Option<Arc<str>>,
        now: Instant,
        wall: Timestamp,
    ) {
        let is_full = self.open.len() >= MOST;
        match self.open.entry(subject) {
            Entry::Occupied(known) => {
                let known = known.into_mut();
                (known.state, known.cause) = (state, cause.or(known.cause.take()));
            }
            Entry::Vacant(_) if is_full => {}
            Entry::Vacant(new) => {
                new.insert(Trouble { state, cause, began: now, since: wall, told: None });
            }
        }
    }

    /// It is well: to be told if its trouble was.
    pub(super) fn well(&mut self, subject: &Subject, cause: Option<Arc<str>>, now: Instant) -> Option<Turn> {
        let (subject, over) = self.open.remove_entry(subject)?;
        over.told?;
        let (state, lasted) = (NoticeState::Passing, now.saturating_duration_since(over.began));
        Some(Turn { subject, state, since: over.since, lasted, cause, open: self.told() })
    }

    /// What has lasted long enough, or has turned for the better or worse since it was told.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Turn> {
        let (mut due, mut told) = (Vec::new(), self.told());
        for (subject, trouble) in &mut self.open {
            let is_due = match trouble.told {
                Some(before) => before != trouble.state,
                None => now.saturating_duration_since(trouble.began) >= self.delay,
            };
            if is_due {
                told += usize::from(trouble.told.is_none());
                trouble.told = Some(trouble.state);
                let lasted = now.saturating_duration_since(trouble.began);
                let (subject, cause) = (subject.clone(), trouble.cause.clone());
                let (state, since) = (trouble.state, trouble.since);
                due.push(Turn { subject, state, since, lasted, cause, open: told });
            }
        }
        due
    }

    /// When there may be something due that nobody has told.
    pub(super) fn next(&self) -> Option<Instant> {
        let waiting = self.open.values().filter(|trouble| trouble.told != Some(trouble.state));
        waiting.map(|t| if t.told.is_some() { t.began } else { t.began + self.delay }).min()
    }

    /// How many are in trouble that was told.
    pub(super) fn told(&self) -> usize {
        self.open.values().filter(|trouble| trouble.told.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use NoticeState::{Critical, Passing, Warning};

    use super::*;

    const DELAY: Duration = Duration::from_secs(1);

    fn subject(name: &str) -> Subject {
        (NoticeKind::Check, name.into())
    }

    /// A ledger and its beginning.
    struct Bench(Ledger, Instant);

    impl Bench {
        fn new() -> Self {
            Self(Ledger::new(DELAY), Instant::now())
        }

        fn at(&self, millis: u64) -> Instant {
            self.1 + Duration::from_millis(millis)
        }

        fn trouble(&mut self, name: &str, state: NoticeState, millis: u64) {
            let (now, wall) = (self.at(millis), Timestamp::from_millis(millis));
            self.0.trouble(subject(name), state, Some("why".into()), now, wall);
        }

        fn due(&mut self, millis: u64) -> Vec<(String, NoticeState, usize)> {
            let due = self.0.due(self.at(millis));
            due.into_iter().map(|turn| (turn.subject.1.to_string(), turn.state, turn.open)).collect()
        }

        fn well(&mut self, name: &str, millis: u64) -> Option<Turn> {
            self.0.well(&subject(name), None, self.at(millis))
        }
    }

    #[test]
    fn trouble_that_passes_soon_is_not_told_and_its_end_neither() {
        let mut bench = Bench::new();
        bench.trouble("a", Critical, 0);
        assert_eq!(bench.0.next(), Some(bench.at(1_000)));
        assert!(bench.due(999).is_empty());
        assert_eq!(bench.well("a", 999), None);
        assert!(bench.0.is_empty() && bench.0.next().is_none());
    }

    #[test]
    fn what_lasts_is_told_once_and_its_end_too() {
        let mut bench = Bench::new();
        bench.trouble("a", Critical, 0);
        bench.trouble("a", Critical, 500);
        bench.trouble("b", Warning, 900);
        assert_eq!(bench.due(1_000), [("a".to_owned(), Critical, 1)]);
        assert_eq!(bench.0.next(), Some(bench.at(1_900)));
        assert_eq!(bench.due(1_900), [("b".to_owned(), Warning, 2)]);
        bench.trouble("a", Critical, 2_000);
        assert!(bench.due(9_000).is_empty() && bench.0.next().is_none());
        let over = bench.well("a", 9_000).unwrap();
        assert_eq!((over.state, over.since, over.open), (Passing, Timestamp::from_millis(0), 1));
        assert_eq!(over.lasted, Duration::from_secs(9));
        assert_eq!(bench.well("b", 9_000).unwrap().open, 0);
        assert_eq!(bench.well("b", 9_001), None);
    }

    #[test]
    fn what_gets_worse_is_told_again_at_once() {
        let mut bench = Bench::new();
        bench.trouble("a", Warning, 0);
        assert_eq!(bench.due(1_000).len(), 1);
        bench.trouble("a", Critical, 1_100);
        assert!(bench.0.next().unwrap() <= bench.at(1_100));
        assert_eq!(bench.due(1_100), [("a".to_owned(), Critical, 1)]);
    }

    #[test]
    fn there_is_an_end_to_what_is_kept() {
        let mut bench = Bench::new();
        (0..2 * MOST).for_each(|n| bench.trouble(&n.to_string(), Critical, 0));
        assert_eq!(bench.due(1_000).len(), MOST);
    }
}
