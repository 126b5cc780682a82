//! What two registrations of one instance are together.

use std::sync::Arc;

use meshwork_core::{Error, ErrorChain, ErrorKind, RegistrationState};
use tokio::time::Instant;

use super::{Side, Start, blame::blame};

/// What each side says; `None` where nothing is announced nor wished to be.
pub(super) type States = [Option<RegistrationState>; 2];

/// The state of the whole: live when one side is, or all, as `start` says; else lost if it was live
/// before, else pending. The cause names the sides that fail.
///
/// A cause that waiting cannot mend stands for the whole only when the other side cannot mend it either.
pub(super) fn joint(
    states: &States,
    names: &[Arc<str>; 2],
    start: Start,
    before: &RegistrationState,
    was_live: bool,
    now: Instant,
) -> RegistrationState {
    let there: Vec<_> =
        Side::BOTH.into_iter().filter_map(|side| Some((side, states[side.at()].as_ref()?))).collect();
    let lives = |(_, state): &(Side, &RegistrationState)| matches!(state, RegistrationState::Live);
    let is_live = match start {
        Start::Any => there.iter().any(lives),
        Start::All => !there.is_empty() && there.iter().all(lives),
    };
    if is_live {
        return RegistrationState::Live;
    }
    let failing: Vec<_> = there.iter().filter_map(|(side, state)| Some((*side, cause_of(state)?))).collect();
    let waits = there.len() > failing.len();
    let cause = (!failing.is_empty()).then(|| {
        let kind = kind_of(&failing, start, waits);
        blame("announcing on", names, kind, &failing)
    });
    if !was_live {
        return RegistrationState::Pending { cause };
    }
    let since = match before {
        RegistrationState::Lost { since, .. } => *since,
        _ => there.iter().filter_map(|(_, state)| lost_since(state)).max().unwrap_or(now),
    };
    let moving = || Arc::new(Error::unavailable("announcing on another side"));
    RegistrationState::Lost { since, cause: cause.unwrap_or_else(moving) }
}

/// Whether nobody could tell the two apart.
pub(super) fn says_the_same(a: &RegistrationState, b: &RegistrationState) -> bool {
    let text = |cause: &Arc<Error>| (cause.kind(), ErrorChain(&**cause).to_string());
    match (a, b) {
        (RegistrationState::Pending { cause: a }, RegistrationState::Pending { cause: b }) => {
            a.as_ref().map(text) == b.as_ref().map(text)
        }
        (RegistrationState::Live, RegistrationState::Live) => true,
        (
            RegistrationState::Lost { since, cause },
            RegistrationState::Lost { since: other_since, cause: other },
        ) => since == other_since && text(cause) == text(other),
        _ => false,
    }
}

fn cause_of(state: &RegistrationState) -> Option<Arc<Error>> {
    match state {
        RegistrationState::Pending { cause } => cause.clone(),
        RegistrationState::Lost { cause, .. } => Some(Arc::clone(cause)),
        RegistrationState::Gone { outcome } => outcome.clone().err(),
        _ => None,
    }
}

fn lost_since(state: &RegistrationState) -> Option<Instant> {
    match state {
        RegistrationState::Lost { since, .. } => Some(*since),
        _ => None,
    }
}

/// `any` hopes for the side that may still come; `all` fails with the one that cannot.
fn kind_of(failing: &[(Side, Arc<Error>)], start: Start, waits: bool) -> ErrorKind {
    // A conflict ends with a new id.
    let is_mended = |kind: &ErrorKind| kind.is_transient() || *kind == ErrorKind::Conflict;
    let mut kinds = failing.iter().map(|(_, cause)| cause.kind());
    let first = kinds.clone().next().unwrap_or(ErrorKind::Unavailable);
    match start {
        Start::Any if waits => ErrorKind::Unavailable,
        Start::Any => kinds.find(is_mended).unwrap_or(first),
        Start::All => kinds.find(|kind| !is_mended(kind)).unwrap_or(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(kind: ErrorKind) -> Option<RegistrationState> {
        Some(RegistrationState::Pending { cause: Some(Arc::new(Error::new(kind, "claiming"))) })
    }

    fn lost(since: Instant) -> Option<RegistrationState> {
        Some(RegistrationState::Lost { since, cause: Arc::new(Error::unavailable("holding")) })
    }

    const LIVE: Option<RegistrationState> = Some(RegistrationState::Live);
    const SILENT: Option<RegistrationState> = Some(RegistrationState::Pending { cause: None });

    fn of(states: States, start: Start, was_live: bool) -> RegistrationState {
        let names = ["etcd".into(), "consul".into()];
        let before = match was_live {
            true => RegistrationState::Live,
            false => RegistrationState::Pending { cause: None },
        };
        joint(&states, &names, start, &before, was_live, Instant::now())
    }

    fn cause(state: &RegistrationState) -> (ErrorKind, String) {
        let cause = cause_of(state).unwrap();
        (cause.kind(), ErrorChain(&*cause).to_string())
    }

    #[test]
    fn one_live_side_is_enough_for_any_and_not_for_all() {
        let dead = || pending(ErrorKind::Unavailable);
        assert_eq!(of([dead(), LIVE], Start::Any, false).as_str(), "live");
        let state = of([LIVE, dead()], Start::All, false);
        assert_eq!(state.as_str(), "pending");
        assert_eq!(cause(&state).1, "announcing on the secondary side `consul`: claiming");
        assert_eq!(of([LIVE, LIVE], Start::All, false).as_str(), "live");
        assert_eq!(of([LIVE, None], Start::All, false).as_str(), "live");
        assert_eq!(of([None, None], Start::All, false).as_str(), "pending");
        assert_eq!(of([None, None], Start::Any, true).as_str(), "lost");
    }

    #[test]
    fn a_side_that_may_still_come_is_hoped_for_by_any_and_no_help_for_all() {
        let denied = || pending(ErrorKind::Denied);
        for other in [SILENT, pending(ErrorKind::Unavailable), pending(ErrorKind::Conflict)] {
            let kind = cause(&of([denied(), other.clone()], Start::Any, false)).0;
            assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::Conflict), "{kind}");
            assert_eq!(cause(&of([other, denied()], Start::All, false)).0, ErrorKind::Denied);
        }
        let (kind, text) = cause(&of([denied(), pending(ErrorKind::Invalid)], Start::Any, false));
        assert_eq!(kind, ErrorKind::Denied);
        assert!(text.contains("`etcd`") && text.contains("`consul`"), "{text}");
    }

    #[test]
    fn lost_counts_from_the_loss_that_made_it_so() {
        let began = Instant::now();
        let later = began + std::time::Duration::from_secs(3);
        let state = of([lost(later), lost(began)], Start::Any, true);
        assert!(matches!(state, RegistrationState::Lost { since, .. } if since == later));
        assert!(says_the_same(&state, &of([lost(later), lost(began)], Start::Any, true)));
        assert!(!says_the_same(&state, &of([lost(later), SILENT], Start::Any, true)));
    }
}
