//! What this process says of its own health: over HTTP, over gRPC, and to its App.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use meshwork_core::Phase;
use serde_json::json;
use tokio::sync::watch;

/// Whether the process and its services may be called. Clones share one state.
///
/// `GET /.meshwork/health` answers 200 while the process lives; `GET /.meshwork/ready` answers 200 or 503
/// and names what is not ready, and the phase of its App; `grpc.health.v1.Health` answers `Check`, `Watch` and `List`, for `""` and for each
/// service known by name. Nothing is ready before the first [`set_serving`](Self::set_serving).
///
/// ```
/// # use meshwork_server::Health;
/// let health = Health::new();
/// health.set_ready("database", false);
/// health.set_serving(true);
/// assert!(!health.is_ready());
/// health.set_ready("database", true);
/// assert!(health.is_ready());
/// ```
#[derive(Clone)]
pub struct Health(Arc<watch::Sender<State>>);

/// Everything that the answers are made of.
#[derive(Debug, Default)]
pub(crate) struct State {
    serving: bool,
    phase: Option<Phase>,
    services: BTreeMap<Box<str>, bool>,
    missing: BTreeSet<Box<str>>,
}

impl Health {
    /// Not serving, no service known, nothing missing.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }

    /// Whether the process as a whole takes calls: true once it is announced, false when it leaves.
    pub fn set_serving(&self, serving: bool) {
        self.0.send_modify(|state| state.serving = serving);
    }

    /// The phase of the App, as the answer to `/.meshwork/ready` has it. Says nothing of readiness by itself.
    pub fn set_phase(&self, phase: Phase) {
        self.0.send_modify(|state| state.phase = Some(phase));
    }

    /// Makes a gRPC service known, and says whether it serves. It counts as not serving while the process
    /// is not ready.
    pub fn set_service(&self, name: &str, serving: bool) {
        self.0.send_modify(|state| {
            state.services.insert(name.into(), serving);
        });
    }

    /// Sets the readiness of a named part (`database`, `cache`). The process is ready while no part is not.
    pub fn set_ready(&self, part: &str, ready: bool) {
        self.0.send_if_modified(|state| match ready {
            true => state.missing.remove(part),
            false => state.missing.insert(part.into()),
        });
    }

    /// Whether the process serves and every named part is ready.
    pub fn is_ready(&self) -> bool {
        self.0.borrow().is_ready()
    }

    /// Whether [`set_serving`](Self::set_serving) said so last.
    pub fn is_serving(&self) -> bool {
        self.0.borrow().serving
    }

    /// The named parts that are not ready, sorted.
    pub fn not_ready(&self) -> Vec<String> {
        self.0.borrow().missing.iter().map(|part| part.to_string()).collect()
    }

    /// Waits until every named part is ready.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn parts_ready(&self) {
        // The sender lives in `self`, so the channel cannot close meanwhile.
        let mut state = self.0.subscribe();
        let _ready = state.wait_for(|state| state.missing.is_empty()).await;
    }

    /// Makes a gRPC service known as serving unless somebody has set it before.
    pub(crate) fn know_service(&self, name: &str) {
        self.0.send_if_modified(|state| {
            let new = !state.services.contains_key(name);
            if new {
                state.services.insert(name.into(), true);
            }
            new
        });
    }

    /// Every service known and whether it serves, with `""` for the process.
    pub(crate) fn services(&self) -> Vec<(String, bool)> {
        let state = self.0.borrow();
        let names = std::iter::once("").chain(state.services.keys().map(|name| &**name));
        names.filter_map(|name| Some((name.to_owned(), state.serves(name)?))).collect()
    }

    /// For `Watch`.
    pub(crate) fn subscribe(&self) -> watch::Receiver<State> {
        self.0.subscribe()
    }

    /// Whether it is ready, and the JSON that `/.meshwork/ready` answers.
    pub(crate) fn ready_json(&self) -> (bool, String) {
        let state = self.0.borrow();
        let missing: Vec<&str> = state.missing.iter().map(|part| &**part).collect();
        let mut body = json!({ "ready": state.is_ready(), "serving": state.serving, "not_ready": missing });
        if let Some(phase) = state.phase {
            body["phase"] = phase.as_str().into();
        }
        (state.is_ready(), body.to_string())
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Health").field(&*self.0.borrow()).finish()
    }
}

// === impl State ===

impl State {
    fn is_ready(&self) -> bool {
        self.serving && self.missing.is_empty()
    }

    /// Whether a gRPC service serves; `None` for one that is not known. `""` is the process.
    pub(crate) fn serves(&self, name: &str) -> Option<bool> {
        match name {
            "" => Some(self.is_ready()),
            _ => self.services.get(name).map(|serving| *serving && self.is_ready()),
        }
    }
}
