//! Announcing: what a process sees of its own record in a registry.

use std::{fmt, sync::Arc};

use tokio::{sync::watch, time::Instant};

use crate::{Error, ErrorKind, Instance, InstanceId};

/// Announces instances.
pub trait Registry: Send + Sync + 'static {
    /// Announces `instance` and keeps it announced until the registration is dropped or deregistered.
    ///
    /// Synchronous and infallible: the keeper behind it claims for ever, with back-off.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    fn register(&self, instance: Instance) -> Registration;
}

const _: fn(Box<dyn Registry>) = |_| {};

/// Whether an instance is announced.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RegistrationState {
    /// Not yet announced.
    Pending {
        /// What the last attempt met, if there was one.
        cause: Option<Arc<Error>>,
    },
    /// Announced, and verified since.
    Live,
    /// It was announced and is not, or cannot be verified; the keeper is at it.
    Lost {
        /// Since when.
        since: Instant,
        /// Why.
        cause: Arc<Error>,
    },
    /// Withdrawn; nothing of it will appear again if the outcome is `Ok`.
    Gone {
        /// Whether the registry confirmed it.
        outcome: Result<(), Arc<Error>>,
    },
}

impl RegistrationState {
    /// Lowercase, as in logs and answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Live => "live",
            Self::Lost { .. } => "lost",
            Self::Gone { .. } => "gone",
        }
    }
}

/// How an instance leaves a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Departure {
    /// The record says `leaving`, then it goes: the process stops.
    Marked,
    /// It goes without the mark: the process lives on elsewhere (a migration between registries).
    Silent,
}

/// What a process wants of its record: level-triggered, read by the keeper whenever it can act.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The record as it should be.
    pub instance: Arc<Instance>,
    /// Whether and how it should leave. Never taken back.
    pub departure: Option<Departure>,
}

/// One live announcement. Dropping it leaves the registry unconfirmed, if the runtime lives on; else the
/// claim's time to live ends it.
pub struct Registration {
    wish: Arc<watch::Sender<Wish>>,
    state: watch::Receiver<RegistrationState>,
}

impl Registration {
    /// For the keeper: it reads `wish` (and may replace a conflicting id in it) and writes the state.
    pub fn new(wish: Arc<watch::Sender<Wish>>, state: watch::Receiver<RegistrationState>) -> Self {
        Self { wish, state }
    }

    /// The state, to be read or awaited.
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.clone()
    }

    /// The record as wished now.
    pub fn instance(&self) -> Arc<Instance> {
        Arc::clone(&self.wish.borrow().instance)
    }

    /// The id of the announced instance; it changes only after a conflict.
    pub fn id(&self) -> InstanceId {
        self.wish.borrow().instance.id.clone()
    }

    /// Waits until the instance is announced for the first time.
    ///
    /// It waits as long as the registry is merely away, so give it a deadline.
    ///
    /// # Errors
    /// The cause, when waiting cannot mend it, or when the registration ended. `Unavailable` can be waited
    /// out, and a `Conflict` ends with a new id.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub async fn live(&self) -> Result<(), Arc<Error>> {
        let mut state = self.state.clone();
        loop {
            match &*state.borrow_and_update() {
                RegistrationState::Live => return Ok(()),
                RegistrationState::Pending { cause: Some(cause) } if is_final(cause.kind()) => {
                    return Err(Arc::clone(cause));
                }
                RegistrationState::Gone { outcome } => {
                    let withdrawn = || Arc::new(Error::unavailable("registration was withdrawn"));
                    return Err(outcome.clone().err().unwrap_or_else(withdrawn));
                }
                RegistrationState::Pending { .. } | RegistrationState::Lost { .. } => {}
            }
            if state.changed().await.is_err() {
                return Err(keeper_gone());
            }
        }
    }

    /// Changes the wished record; the keeper brings it to the registry as soon as it can.
    ///
    /// Level-triggered: of several quick changes only the last content is written. `service` and `id`
    /// cannot be changed.
    pub fn update(&self, change: impl FnOnce(&mut Instance)) {
        self.wish.send_if_modified(|wish| {
            let mut instance = (*wish.instance).clone();
            change(&mut instance);
            instance.service = wish.instance.service.clone();
            instance.id = wish.instance.id.clone();
            let differs = instance != *wish.instance;
            if differs {
                wish.instance = Arc::new(instance);
            }
            differs
        });
    }

    /// Leaves the registry: the record says `leaving`, then its claim ends.
    ///
    /// # Errors
    /// What the registry answered when it did not confirm; the claim's time to live ends the record then.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the leaving; only its outcome is lost.
    pub async fn deregister(self) -> Result<(), Arc<Error>> {
        self.depart(Departure::Marked).await
    }

    /// Leaves the registry in the given way.
    ///
    /// # Errors
    /// As [`deregister`](Self::deregister).
    ///
    /// # Cancel safety
    /// As [`deregister`](Self::deregister).
    pub async fn depart(self, how: Departure) -> Result<(), Arc<Error>> {
        self.request(how);
        let mut state = self.state.clone();
        loop {
            if let RegistrationState::Gone { outcome } = &*state.borrow_and_update() {
                return outcome.clone();
            }
            if state.changed().await.is_err() {
                return Err(keeper_gone());
            }
        }
    }

    fn request(&self, how: Departure) {
        self.wish.send_if_modified(|wish| {
            let first = wish.departure.is_none();
            wish.departure.get_or_insert(how);
            first
        });
    }
}

/// Whether a start must not wait for it to pass.
fn is_final(kind: ErrorKind) -> bool {
    !kind.is_transient() && kind != ErrorKind::Conflict
}

fn keeper_gone() -> Arc<Error> {
    Arc::new(Error::unavailable("registration keeper ended with its runtime"))
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.request(Departure::Marked);
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registration").field("id", &self.id()).field("state", &*self.state.borrow()).finish()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::ServiceName;

    fn registration() -> (Arc<watch::Sender<Wish>>, watch::Sender<RegistrationState>, Registration) {
        let instance = Arc::new(Instance::new(ServiceName::new("users").unwrap()));
        let wish = Arc::new(watch::Sender::new(Wish { instance, departure: None }));
        let (state, seen) = watch::channel(RegistrationState::Pending { cause: None });
        (Arc::clone(&wish), state, Registration::new(wish, seen))
    }

    #[tokio::test]
    async fn live_fails_only_on_what_waiting_cannot_mend() {
        let (_wish, state, registration) = registration();
        let cause = |kind| Some(Arc::new(Error::new(kind, "claiming")));
        state.send_replace(RegistrationState::Pending { cause: cause(ErrorKind::Unavailable) });
        let mut live = Box::pin(registration.live());
        assert!(live.as_mut().now_or_never().is_none());
        state.send_replace(RegistrationState::Pending { cause: cause(ErrorKind::Conflict) });
        assert!(live.as_mut().now_or_never().is_none());
        state.send_replace(RegistrationState::Pending { cause: cause(ErrorKind::Denied) });
        assert_eq!(live.await.unwrap_err().kind(), ErrorKind::Denied);
    }

    #[test]
    fn an_update_cannot_change_who_it_is() {
        let (wish, _state, registration) = registration();
        let id = registration.id();
        registration.update(|instance| {
            instance.weight = 7;
            instance.id = InstanceId::new("other").unwrap();
            instance.service = ServiceName::new("other").unwrap();
        });
        let wished = wish.borrow().instance.clone();
        assert_eq!((wished.weight, &wished.id, wished.service.as_str()), (7, &id, "users"));
    }

    #[test]
    fn dropping_it_asks_to_leave() {
        let (wish, _state, registration) = registration();
        drop(registration);
        assert_eq!(wish.borrow().departure, Some(Departure::Marked));
    }
}
