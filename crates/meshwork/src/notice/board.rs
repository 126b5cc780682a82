//! Where everybody says what is not well, and whence it is told.

use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use meshwork_core::{Task, Timestamp};
use tokio::{
    select,
    sync::{Notify, broadcast},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Notice, NoticeKind, NoticeState, Notices,
    ledger::{Ledger, Turn},
};

/// How many notices wait for one reader; then the oldest gives way.
const QUEUE: usize = 16;
/// How long trouble must last before the configuration says otherwise.
const DELAY: Duration = Duration::from_secs(1);

/// Whose notices they are.
#[derive(Clone, Default)]
pub(crate) struct Who {
    pub(crate) service: Arc<str>,
    pub(crate) instance: Arc<str>,
    pub(crate) env: Arc<str>,
}

/// Takes what anybody says without waiting, and tells what lasts as long as its task lives.
pub(crate) struct Board {
    state: Mutex<State>,
    changed: Notify,
    told: broadcast::Sender<Notice>,
}

struct State {
    who: Who,
    ledger: Ledger,
}

// === impl Board ===

impl Board {
    pub(crate) fn new() -> Self {
        let state = State { who: Who::default(), ledger: Ledger::new(DELAY) };
        Self { state: Mutex::new(state), changed: Notify::new(), told: broadcast::Sender::new(QUEUE) }
    }

    pub(crate) fn set_who(&self, who: Who) {
        self.state().who = who;
    }

    /// After a conflict, or when it was withdrawn, a process goes by another id.
    pub(crate) fn set_instance(&self, instance: &str) {
        let mut state = self.state();
        if *state.who.instance != *instance {
            state.who.instance = instance.into();
        }
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        self.state().ledger.set_delay(delay);
        self.changed.notify_one();
    }

    /// Something is not well; again and again is as good as once.
    pub(crate) fn trouble(
        &self,
        kind: NoticeKind,
        name: &str,
        state: NoticeState,
        cause: Option<impl Into<Arc<str>>>,
    ) {
        let (now, wall) = (Instant::now(), Timestamp::now());
        self.state().ledger.trouble((kind, name.into()), state, cause.map(Into::into), now, wall);
        self.changed.notify_one();
    }

    /// It is well.
    pub(crate) fn well(&self, kind: NoticeKind, name: &str) {
        self.end(kind, name, None);
    }

    /// It is of no concern any more, and why.
    pub(crate) fn end(&self, kind: NoticeKind, name: &str, cause: Option<&str>) {
        let mut state = self.state();
        // All is well nearly always.
        if !state.ledger.is_empty()
            && let Some(turn) = state.ledger.well(&(kind, name.into()), cause.map(Into::into), Instant::now())
        {
            self.tell(&state, turn);
        }
    }

    /// Tells at once of something that is well and has changed.
    pub(crate) fn news(&self, kind: NoticeKind, name: &str, cause: String) {
        let mut state = self.state();
        let open = state.ledger.well(&(kind, name.into()), None, Instant::now()).map(|turn| turn.open);
        let open = open.unwrap_or_else(|| state.ledger.told());
        let (since, lasted) = (Timestamp::now(), Duration::ZERO);
        let (subject, cause) = ((kind, name.into()), Some(cause.into()));
        self.tell(&state, Turn { subject, state: NoticeState::Passing, since, lasted, cause, open });
    }

    pub(crate) fn listen(&self) -> Notices {
        Notices { told: self.told.subscribe(), missed: 0 }
    }

    /// Tells what lasts as long as the task lives.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn spawn(self: &Arc<Self>) -> Task {
        let board = Arc::clone(self);
        let handle = tokio::spawn(async move {
            loop {
                let next = board.state().ledger.next();
                let due = async {
                    match next {
                        Some(next) => sleep_until(next).await,
                        None => pending().await,
                    }
                };
                select! {
                    () = due => {}
                    () = board.changed.notified() => {}
                }
                let mut state = board.state();
                for turn in state.ledger.due(Instant::now()) {
                    board.tell(&state, turn);
                }
            }
        });
        Task::new("notices", CancellationToken::new(), handle)
    }

    /// Under the lock, so that nobody hears of an end before its beginning.
    fn tell(&self, state: &State, turn: Turn) {
        let Turn { subject: (kind, name), state: now, since, lasted, cause, open } = turn;
        let why = cause.as_deref().map(|cause| format!(": {cause}")).unwrap_or_default();
        let after = match lasted.is_zero() || now != NoticeState::Passing {
            true => String::new(),
            false => format!(" after {lasted:.1?}"),
        };
        let text = format!("{kind} `{name}` is {now}{after}{why}").into();
        let Who { service, instance, env } = state.who.clone();
        let notice = Notice { service, instance, env, kind, name, state: now, since, cause, text, open };
        tracing::info!(%kind, name = %notice.name, state = %now, open, text = %notice.text, "notice");
        let _nobody_listens = self.told.send(notice);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
