//! Where one blocking query stands: the index rules, without I/O.
//!
//! Index and data stand together: the index is the one of the data that was applied last. An answer with a
//! lower index is not applied; the data is read again from the start, at the leader. An index of 0 is never
//! asked for again, so a server that counts nothing is polled, not stormed.

use std::time::Duration;

use crate::agent::Answer;

/// What the head of an answer says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// `X-Consul-Index`; 0 when absent or no number.
    pub(crate) index: u64,
    /// `X-Consul-KnownLeader`, if it is there and means something: the streaming backend always says false.
    pub(crate) known_leader: Option<bool>,
    /// `X-Consul-LastContact`.
    pub(crate) last_contact: Duration,
    /// Whether the streaming backend of a client agent answered.
    pub(crate) is_streamed: bool,
}

impl Head {
    pub(crate) fn of(answer: &Answer) -> Self {
        let number = |name: &str| answer.header(name).and_then(|text| text.parse::<u64>().ok());
        let is_streamed = answer.header("X-Consul-Query-Backend") == Some("streaming");
        let known_leader = answer.header("X-Consul-KnownLeader").filter(|_| !is_streamed);
        Self {
            index: number("X-Consul-Index").unwrap_or(0),
            known_leader: known_leader.map(|text| text == "true"),
            last_contact: Duration::from_millis(number("X-Consul-LastContact").unwrap_or(0)),
            is_streamed,
        }
    }
}

/// What to do with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its data is at least as new as what we have.
    Apply,
    /// It is older than what we have, or than we take: ask again, at the leader.
    Older,
    /// The server has no leader: it knows nothing.
    Leaderless,
}

/// The cell of one query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cursor {
    index: Option<u64>,
    /// How often in a row an answer was older.
    older: u32,
}

impl Cursor {
    /// The index to wait beyond; `None` = ask for the data as it is, at the leader.
    pub(crate) fn index(&self) -> Option<u64> {
        self.index
    }

    /// Whether the question after an older answer is due: it must be a confirmed one.
    pub(crate) fn is_confirming(&self) -> bool {
        self.older > 0
    }

    /// Forgets where it stood, and asks for a confirmed answer.
    pub(crate) fn doubt(&mut self) {
        self.index = None;
        self.older += 1;
    }

    /// Judges the answer to what [`index`](Self::index) asked.
    pub(crate) fn answered(&mut self, head: Head, max_stale: Duration) -> Verdict {
        if head.known_leader == Some(false) {
            self.index = None;
            return Verdict::Leaderless;
        }
        let Some(asked) = self.index else {
            self.index = Some(head.index.max(1));
            self.older = 0;
            return Verdict::Apply;
        };
        // A server that counts nothing answers 0 for ever: its data is all there is.
        if head.index == 0 && asked == 1 {
            return Verdict::Apply;
        }
        if head.index < asked || head.last_contact > max_stale {
            self.doubt();
            return Verdict::Older;
        }
        self.index = Some(head.index);
        Verdict::Apply
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Duration = Duration::from_secs(5);

    fn at(index: u64) -> Head {
        Head { index, known_leader: Some(true), ..Head::default() }
    }

    #[test]
    fn follows_a_growing_index() {
        let mut cursor = Cursor::default();
        assert_eq!(cursor.index(), None);
        for index in [7, 7, 9] {
            assert_eq!(cursor.answered(at(index), STALE), Verdict::Apply);
            assert_eq!(cursor.index(), Some(index));
        }
    }

    #[test]
    fn an_index_that_goes_backwards_is_read_again_from_the_start() {
        let mut cursor = Cursor::default();
        let mut asked = Vec::new();
        for index in [100, 50, 50, 0, 0, 0] {
            asked.push(cursor.index());
            cursor.answered(at(index), STALE);
        }
        assert_eq!(asked, [None, Some(100), None, Some(50), None, Some(1)]);
        assert_eq!(cursor.index(), Some(1), "0 is never asked for twice");
    }

    #[test]
    fn two_servers_that_answer_in_turn_show_no_older_data() {
        let mut cursor = Cursor::default();
        cursor.answered(at(10_000), STALE);
        assert_eq!(cursor.answered(at(5_000), STALE), Verdict::Older);
        assert!(cursor.is_confirming());
        assert_eq!(cursor.answered(at(10_000), STALE), Verdict::Apply);
        assert!(!cursor.is_confirming());
    }

    #[test]
    fn what_is_too_old_or_has_no_leader_is_no_fact() {
        let mut cursor = Cursor::default();
        cursor.answered(at(5), STALE);
        let old = Head { last_contact: Duration::from_secs(6), ..at(9) };
        assert_eq!(cursor.answered(old, STALE), Verdict::Older);
        cursor.answered(at(9), STALE);
        let blank = Head { known_leader: Some(false), ..at(12) };
        assert_eq!(cursor.answered(blank, STALE), Verdict::Leaderless);
        let mut first = Cursor::default();
        assert_eq!(first.answered(blank, STALE), Verdict::Leaderless, "nor at the start");
    }
}
