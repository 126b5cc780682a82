//! The registration of a service that its registry does not announce: somebody else lists it.

use std::sync::Arc;

use meshwork_core::{Instance, Registration, RegistrationState, Wish};
use tokio::sync::watch;

/// Live at once, and gone when it is wished to be.
pub(super) fn register(instance: Instance) -> Registration {
    let wish = Arc::new(watch::Sender::new(Wish { instance: Arc::new(instance), departure: None }));
    let (state, seen) = watch::channel(RegistrationState::Live);
    let mut wishes = wish.subscribe();
    // Not owned by the registration: its end is the drop of that, which wishes to leave.
    tokio::spawn(async move {
        let _closed = wishes.wait_for(|wish| wish.departure.is_some()).await;
        state.send_replace(RegistrationState::Gone { outcome: Ok(()) });
    });
    Registration::new(wish, seen)
}
