//! How sure a union is: what its sides say of themselves, in one word and one cause.

use std::{sync::Arc, time::Duration};

use meshwork_core::{Error, ErrorChain, ErrorKind, Staleness};
use tokio::time::Instant;

use super::{Side, blame::blame, face::Face};

#[derive(Debug)]
pub(super) struct Certainty {
    names: [Arc<str>; 2],
    began: Instant,
}

impl Certainty {
    pub(super) fn new(names: [Arc<str>; 2], began: Instant) -> Self {
        Self { names, began }
    }

    /// Fresh when all sides that count are, pending when none ever answered, else stale: since when and
    /// how old is the side's whose answer is the oldest, the cause names each side that is not fresh.
    ///
    /// What was known before, `before`, does not become pending again.
    pub(super) fn of(
        &self,
        faces: &[Face; 2],
        counts: [bool; 2],
        before: &Staleness,
        now: Instant,
    ) -> Staleness {
        let counted = || Side::BOTH.into_iter().filter(|side| counts[side.at()]);
        let failing: Vec<_> = counted()
            .map(|side| (side, &faces[side.at()]))
            .filter(|(_, face)| !face.staleness.is_fresh())
            .collect();
        let is_known = counted().any(|side| faces[side.at()].is_known());
        if is_known && failing.is_empty() {
            return Staleness::Fresh;
        }
        let cause = self.cause(&failing);
        let of_face =
            |face: &Face| face.stale_since().unwrap_or((face.followed.unwrap_or(self.began), Duration::ZERO));
        let oldest = failing
            .iter()
            .map(|(_, face)| of_face(face))
            .reduce(|a, b| if a.0 + b.1 <= b.0 + a.1 { a } else { b });
        match (oldest, before) {
            (Some((since, age)), _) if is_known => Staleness::Stale { since, age, cause },
            (_, Staleness::Pending { .. }) => Staleness::Pending { cause: Some(cause) },
            (_, Staleness::Stale { since, age, .. }) => Staleness::Stale { since: *since, age: *age, cause },
            _ => Staleness::Stale { since: now, age: Duration::ZERO, cause },
        }
    }

    fn cause(&self, failing: &[(Side, &Face)]) -> Arc<Error> {
        if failing.is_empty() {
            let text = "none of the registries that are read finds anybody";
            return Arc::new(Error::new(ErrorKind::Unsupported, text));
        }
        let silent = || Arc::new(Error::unavailable("no answer yet"));
        let cause = |face: &Face| face.staleness.cause().cloned().unwrap_or_else(silent);
        let failing: Vec<_> = failing.iter().map(|(side, face)| (*side, cause(face))).collect();
        // What waiting can mend on one side is worth waiting for.
        let kinds = || failing.iter().map(|(_, cause)| cause.kind());
        let kind = kinds().find(|kind| kind.is_transient()).or(kinds().next());
        blame("reading", &self.names, kind.unwrap_or(ErrorKind::Unavailable), &failing)
    }
}

/// Whether nobody could tell the two apart.
pub(super) fn says_the_same(a: &Staleness, b: &Staleness) -> bool {
    let text =
        |cause: Option<&Arc<Error>>| cause.map(|cause| (cause.kind(), ErrorChain(&**cause).to_string()));
    let times = match (a, b) {
        (Staleness::Fresh, Staleness::Fresh) => return true,
        (Staleness::Pending { .. }, Staleness::Pending { .. }) => true,
        (Staleness::Stale { since, age, .. }, Staleness::Stale { since: other, age: older, .. }) => {
            (since, age) == (other, older)
        }
        _ => false,
    };
    times && text(a.cause()) == text(b.cause())
}
