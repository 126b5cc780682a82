//! Says on the board how the views of services stand, and which of their instances give no sign of life.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use meshwork_core::{ErrorChain, Evidence, Instance, InstanceId, Seen, Snapshot, Staleness, Task, Watch};
use tokio_util::sync::CancellationToken;

use super::{NoticeKind, NoticeState, board::Board};

/// Hears what a client sees of the instances of one view.
struct Peers {
    board: Arc<Board>,
    /// Tells no evidence, only which records there are.
    view: Watch,
    /// Who was in trouble and may be still.
    noted: Mutex<Vec<InstanceId>>,
}

/// Follows a view as long as the task lives; the watch that comes back is the one to call through. `name` is what the
/// board calls the view.
///
/// # Panics
/// Outside a tokio runtime.
pub(crate) fn follow(board: &Arc<Board>, name: Arc<str>, mut watch: Watch) -> (Watch, Task) {
    let peers = Arc::new(Peers { board: Arc::clone(board), view: watch.clone(), noted: Mutex::default() });
    let reporting = watch.clone().reporting_to(Arc::clone(&peers) as Arc<dyn Evidence>);
    let handle = tokio::spawn(async move {
        loop {
            let view = watch.changed().await;
            peers.say(&name, view.staleness());
            peers.forget(&view);
        }
    });
    (reporting, Task::new("view", CancellationToken::new(), handle))
}

// === impl Peers ===

impl Peers {
    fn say(&self, name: &str, staleness: &Staleness) {
        let (state, cause) = match staleness {
            // Nothing was asked yet.
            Staleness::Pending { cause: None } => return,
            Staleness::Pending { cause: Some(cause) } => (NoticeState::Critical, cause),
            Staleness::Stale { cause, .. } => (NoticeState::Warning, cause),
            _ => return self.board.well(NoticeKind::Discovery, name),
        };
        let cause = ErrorChain(&**cause).to_string();
        self.board.trouble(NoticeKind::Discovery, name, state, Some(cause));
    }

    /// Who is not in the view any more is not missed.
    fn forget(&self, view: &Snapshot) {
        self.noted().retain(|id| {
            let is_there = find(view, id).is_some();
            if !is_there {
                self.board.end(NoticeKind::Peer, id.as_str(), Some("it is no instance any more"));
            }
            is_there
        });
    }

    fn noted(&self) -> MutexGuard<'_, Vec<InstanceId>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Evidence for Peers {
    fn saw(&self, id: &InstanceId, what: Seen) {
        let (board, name) = (&self.board, id.as_str());
        let cause = match what {
            Seen::Itself => return board.well(NoticeKind::Peer, name),
            Seen::Draining => return board.end(NoticeKind::Peer, name, Some("it leaves")),
            Seen::Refused => "refuses connections",
            Seen::Another => "somebody else answers at its address",
            Seen::Silent => "gives no sign of life",
            _ => return,
        };
        // Of foreign ones it is not seen when they are well again.
        if find(&self.view.latest(), id).is_some_and(Instance::is_native) {
            let mut noted = self.noted();
            if !noted.contains(id) {
                noted.push(id.clone());
            }
            board.trouble(NoticeKind::Peer, name, NoticeState::Warning, Some(cause));
        }
    }
}

fn find<'a>(view: &'a Snapshot, id: &InstanceId) -> Option<&'a Instance> {
    let found = view.value().binary_search_by(|instance| instance.id.cmp(id));
    found.ok().map(|at| &*view.value()[at])
}
