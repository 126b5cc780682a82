//! The task that owns the connections of one node: dials, confirms, publishes, notices the end, dials again.

use std::{
    borrow::Cow,
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use meshwork_core::{ErrorChain, Seen, Task};
use meshwork_resilience::{Backoff, Pauses, chance};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    CallError, CallErrorKind, ConnectionState,
    dial::{self, Dialled},
    failure::says_calm_down,
    held::{Held, SHORT_LIVED},
    http1::Http1,
    lines::Place,
    link::Link,
    shared::Shared,
    spares,
};

/// Owns the connections of `link` for ever.
///
/// # Cancel safety
/// Dropping the future gives the connections up: open streams finish, new ones are not begun.
pub(crate) async fn own(link: Arc<Link>, shared: Arc<Shared>) {
    let mut first = pin!(first(&link, &shared));
    let crowded = poll_fn(|cx| match first.as_mut().poll(cx) {
        Poll::Pending if !link.was_crowded() => Poll::Pending,
        Poll::Pending | Poll::Ready(()) => Poll::Ready(()),
    });
    crowded.await;
    // From now on spares may be wanted. They have a task of their own: each call wakes the owner of its
    // connection, and no other should be looked at then.
    let name = format!("client {} {} spares", shared.service, link.target().address());
    let task = tokio::spawn(spares::keep(Arc::clone(&link), Arc::clone(&shared)));
    let _spares = Task::new(name, CancellationToken::new(), task);
    first.await;
}

/// Keeps the first connection for ever.
async fn first(link: &Link, shared: &Shared) {
    let mut backoff = Pauses::new(Backoff::CONNECT);
    loop {
        // Boxed, so that a node that waits does not carry the room of a dial.
        let begun = Instant::now();
        let pause = match Box::pin(dial::dial(link, shared)).await {
            Ok(Dialled::Http2(connection, driver)) => {
                let held = Held { connection, driver };
                serve_http2(held, link, shared, begun, &mut backoff).await
            }
            Ok(Dialled::Http1(pool)) => Some(serve_http1(&pool, link, shared, &mut backoff).await),
            Ok(Dialled::Another) => {
                another(link, shared, begun);
                link.nudged().await;
                backoff.reset();
                None
            }
            Err(error) => Some(failed(link, shared, error, begun, &mut backoff)),
        };
        if let Some(pause) = pause {
            tokio::select! {
                () = time::sleep(pause) => {}
                () = link.nudged() => {}
            }
        }
    }
}

/// Serves until there is none; says how long to pause before the next.
async fn serve_http2(
    mut held: Held,
    link: &Link,
    shared: &Shared,
    begun: Instant,
    backoff: &mut Pauses,
) -> Option<Duration> {
    let address = link.target().address();
    tracing::debug!(service = %shared.service, %address, "node connected");
    let (calls, opened) = (held.connection.calls(), Instant::now());
    held.publish(Place::First, link, shared);
    let error = held.serve_and_renew(link, shared).await;
    link.withdraw(Place::First, ConnectionState::Connecting);
    tracing::debug!(service = %shared.service, %address, ?error, "node's connection ended");
    let served = held.connection.calls() > calls;
    // Its queue is handed back to the calls in it, which go elsewhere.
    drop(held);
    let is_told = error.as_ref().is_some_and(says_calm_down);
    let lasted = opened.elapsed() >= SHORT_LIVED;
    if lasted || (served && !is_told) {
        backoff.reset();
    }
    if (served || lasted) && !is_told {
        return None;
    }
    let text = match error {
        Some(error) => format!("the connection ended at once: {}", ErrorChain(&error)).into(),
        None => Cow::Borrowed("the connection ended at once"),
    };
    let short = CallError::new(CallErrorKind::Connect, text);
    Some(failed(link, shared, short, begun, backoff))
}

/// Serves until a call finds nobody; says how long to pause before the next dial.
async fn serve_http1(pool: &Http1, link: &Link, shared: &Shared, backoff: &mut Pauses) -> Duration {
    backoff.reset();
    link.publish_http1();
    shared.wake_all();
    tokio::select! {
        () = link.is_down() => {}
        () = pool.reap() => {}
    }
    link.withdraw(Place::First, ConnectionState::Connecting);
    // The call that found nobody was the first failed dial of this pause.
    let nobody = CallError::new(CallErrorKind::Connect, "nobody answered a call's dial");
    failed(link, shared, nobody, Instant::now(), backoff)
}

/// Notes a failed dial, wakes those who wait for it, and says how long to pause.
fn failed(link: &Link, shared: &Shared, error: CallError, begun: Instant, backoff: &mut Pauses) -> Duration {
    let pause = backoff.next(chance::bits());
    let address = link.target().address();
    tracing::debug!(service = %shared.service, %address, error = %ErrorChain(&error), ?pause, "dial failed");
    if is_refused(&error) {
        shared.watch.saw(&link.record().id, Seen::Refused);
    }
    link.failed(error, begun.elapsed());
    let record = link.record();
    let state =
        if link.is_drained(&record.id) { ConnectionState::Draining } else { ConnectionState::BackingOff };
    link.set_state(state);
    shared.wake_all();
    pause
}

/// Takes the node out until its record changes.
fn another(link: &Link, shared: &Shared, begun: Instant) {
    let record = link.record();
    let (service, address, id) = (&shared.service, link.target().address(), &record.id);
    tracing::warn!(%service, %address, %id, "somebody else answers at the address of an instance");
    shared.watch.saw(&record.id, Seen::Another);
    let error = CallError::new(CallErrorKind::Connect, "somebody else answers there");
    link.failed(error, begun.elapsed());
    link.set_state(ConnectionState::Another);
    shared.wake_all();
}

fn is_refused(error: &CallError) -> bool {
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.kind() == io::ErrorKind::ConnectionRefused;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use meshwork_balance::NodeKey;
    use meshwork_core::{Instance, ServiceName, Watch};

    use super::*;
    use crate::{ClientConfig, Protocol};

    #[tokio::test]
    async fn an_owner_is_small_because_there_is_one_for_each_node() {
        let service = ServiceName::new("users").unwrap();
        let shared = Shared::new(service.clone(), Watch::fixed(Arc::from([])), ClientConfig::default());
        let key = NodeKey::new(["grpc://10.0.0.1:90".parse().unwrap()]);
        let link = Link::new(key, Protocol::Http2, Arc::new(Instance::new(service)), None, 4);
        let owner = own(Arc::new(link), shared);
        assert!(size_of_val(&owner) <= 2048, "{}", size_of_val(&owner));
    }
}
