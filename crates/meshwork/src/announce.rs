//! Announces a process as every service it serves, and keeps its identity up to date; the runner calls it when the
//! process is ready.

use std::{sync::Arc, time::Duration};

use futures_util::future::{join_all, try_join_all};
use meshwork_core::{Error, ErrorChain, Instance, Registration, RegistrationState, ServiceName, Task};
use meshwork_server::Identity;
use tokio::{
    select,
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    RunError,
    handle::Shared,
    notice::{NoticeKind, NoticeState, board::Board},
    wiring::Wiring,
};

/// The registrar's own budget to mark and release a record, and a little more.
pub(crate) const DEREGISTER: Duration = Duration::from_millis(2_500);

/// Announces the instance as every service it serves; with `registry.required = false` it goes on unannounced after
/// the time-out. `Err(None)` = asked to stop meanwhile.
pub(crate) async fn announce(
    shared: &Arc<Shared>,
    wiring: &Wiring,
    identity: &Identity,
    instance: Instance,
) -> Result<Vec<Task>, Option<RunError>> {
    let Some(registry) = &wiring.parts.registry else {
        tracing::info!(registry = %wiring.parts.description, "registry does not announce, serving unannounced");
        return Ok(Vec::new());
    };
    let settings = wiring.config.registry();
    let also = wiring.also.iter().map(|service| as_service(&instance, service)).collect::<Vec<_>>();
    let instances: Vec<_> = std::iter::once(instance).chain(also).collect();
    identity.set(instances.iter().map(|instance| (&instance.service, &instance.id)));
    // From here: what `warm_up` took is not the registry's.
    let began = Instant::now();
    let registrations: Vec<_> = instances.into_iter().map(|instance| registry.register(instance)).collect();
    let outcome = select! {
        outcome = timeout_at(began + settings.start_timeout, all_live(&registrations)) => outcome,
        stop = shared.control.asked() => {
            let end = stop.since + wiring.config.drain().deadline;
            let _unconfirmed = timeout_at(end, withdraw(registrations)).await;
            return Err(None);
        }
    };
    let cause = match outcome {
        Ok(Ok(())) => None,
        Ok(Err(cause)) => Some(Some(cause)),
        Err(_elapsed) => Some(registrations.iter().find_map(pending_cause)),
    };
    if let Some(cause) = cause {
        if settings.required {
            let registry = wiring.parts.description.clone();
            // Whatever the keepers may have sent is taken back before the process ends.
            withdraw(registrations).await;
            return Err(Some(RunError::Registry { registry, waited: began.elapsed(), cause }));
        }
        let service = &wiring.service;
        let error = cause.as_deref().map(|cause| ErrorChain(cause).to_string()).unwrap_or_default();
        tracing::warn!(%service, error, "not announced yet and not found by others, serving all the same");
    }
    shared.set_registrations(registrations);
    Ok(follow(shared, identity))
}

/// The same process as another service.
fn as_service(instance: &Instance, service: &ServiceName) -> Instance {
    let Instance { service, id, .. } = Instance::new(service.clone());
    let mut also = instance.clone();
    (also.service, also.id) = (service, id);
    also
}

async fn all_live(registrations: &[Registration]) -> Result<(), Arc<Error>> {
    try_join_all(registrations.iter().map(Registration::live)).await.map(drop)
}

/// Why a registration is not live yet, where it says so.
fn pending_cause(registration: &Registration) -> Option<Arc<Error>> {
    match &*registration.state().borrow() {
        RegistrationState::Pending { cause } => cause.clone(),
        _ => None,
    }
}

/// Takes all records back until [`again`].
pub(crate) async fn withdraw_for_now(shared: &Shared) {
    withdraw(shared.withdraw_registrations()).await;
}

/// Announces again what was withdrawn, and keeps the identity up to date.
pub(crate) fn again(shared: &Arc<Shared>, wiring: &Wiring, identity: &Identity) -> Vec<Task> {
    let Some(registry) = &wiring.parts.registry else { return Vec::new() };
    shared.announce_withdrawn(|instance| registry.register(instance));
    keep_identity(shared, identity);
    follow(shared, identity)
}

/// Leaves what was not announced in full.
async fn withdraw(registrations: Vec<Registration>) {
    let all = registrations.into_iter().map(|registration| timeout(DEREGISTER, registration.deregister()));
    let _unconfirmed = join_all(all).await;
}

/// After a conflict the keeper takes a new id; clients that confirm a connection must find it here.
fn keep_identity(shared: &Shared, identity: &Identity) {
    let everybody = shared.everybody();
    if let Some(first) = everybody.first() {
        identity.set(everybody.iter().map(|instance| (&instance.service, &instance.id)));
        shared.notices.set_instance(first.id.as_str());
    }
}

/// Follows every registration: who we are, and whether the registry hears our heartbeat.
fn follow(shared: &Arc<Shared>, identity: &Identity) -> Vec<Task> {
    let states = shared.registration_states().into_iter();
    let tasks = states.map(|(service, mut state)| {
        let (shared, identity) = (Arc::clone(shared), identity.clone());
        let handle = tokio::spawn(async move {
            loop {
                say(&shared.notices, &service, &state.borrow_and_update());
                if state.changed().await.is_err() {
                    return;
                }
                keep_identity(&shared, &identity);
            }
        });
        Task::new("identity", CancellationToken::new(), handle)
    });
    tasks.collect()
}

fn say(board: &Board, service: &ServiceName, state: &RegistrationState) {
    let (state, cause) = match state {
        RegistrationState::Lost { cause, .. } => (NoticeState::Critical, cause),
        RegistrationState::Pending { cause: Some(cause) } => (NoticeState::Critical, cause),
        RegistrationState::Live => return board.well(NoticeKind::Registration, service.as_str()),
        // Nothing was asked yet, or it has left.
        _ => return,
    };
    let cause = ErrorChain(&**cause).to_string();
    board.trouble(NoticeKind::Registration, service.as_str(), state, Some(cause));
}
