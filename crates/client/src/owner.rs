//! The task that owns the connection of one node: dials, confirms, publishes, notices its end, dials again.

use std::{io, sync::Arc, time::Duration};

use meshwork_core::{ErrorChain, InstanceId, Seen};
use tokio::time::{self, Instant};

use crate::{
    CallError, CallErrorKind, Connected, ConnectionState, Protocol,
    backoff::Backoff,
    confirm::{self, Answer},
    connect::first_of,
    http1::Http1,
    http2::{Driver, Http2, Served},
    link::Link,
    shared::Shared,
};

/// A connection that ends earlier, without a call, counts as a failed dial.
const SHORT_LIVED: Duration = Duration::from_secs(1);

/// What a dial came to.
enum Dialled {
    Http2(Arc<Http2>, Box<Driver>),
    Http1(Arc<Http1>),
    /// Somebody else answers.
    Another,
}

/// Owns the connection of `link` for ever.
///
/// # Cancel safety
/// Dropping the future gives the connection up: open streams finish, new ones are not begun.
pub(crate) async fn own(link: Arc<Link>, shared: Arc<Shared>) {
    let mut backoff = Backoff::default();
    loop {
        let begun = Instant::now();
        // Boxed, so that a node that waits does not carry the room of a dial.
        let pause = match Box::pin(dial(&link, &shared)).await {
            Ok(Dialled::Http2(connection, mut driver)) => {
                let address = link.target().address();
                tracing::debug!(service = %shared.service, %address, "node connected");
                let calls = connection.calls();
                link.publish(Some(Arc::clone(&connection)));
                shared.pulse.add(&connection);
                shared.wake_all();
                let opened = Instant::now();
                let error = serve(&connection, &mut driver, &link, &shared).await;
                link.withdraw(ConnectionState::Connecting);
                tracing::debug!(service = %shared.service, %address, ?error, "node's connection ended");
                // Its queue is handed back to the calls in it, which go elsewhere.
                drop(driver);
                let served = connection.calls() > calls;
                if served || opened.elapsed() >= SHORT_LIVED {
                    backoff.reset();
                    None
                } else {
                    let short = CallError::new(CallErrorKind::Connect, "the connection ended at once");
                    Some(failed(&link, &shared, short, begun, &mut backoff))
                }
            }
            Ok(Dialled::Http1(pool)) => {
                backoff.reset();
                link.publish(None);
                shared.wake_all();
                tokio::select! {
                    () = link.is_down() => {}
                    () = pool.reap() => {}
                }
                link.withdraw(ConnectionState::Connecting);
                // The call that found nobody was the first failed dial of this pause.
                let nobody = CallError::new(CallErrorKind::Connect, "nobody answered a call's dial");
                Some(failed(&link, &shared, nobody, Instant::now(), &mut backoff))
            }
            Ok(Dialled::Another) => {
                another(&link, &shared, begun);
                link.nudged().await;
                backoff.reset();
                None
            }
            Err(error) => Some(failed(&link, &shared, error, begun, &mut backoff)),
        };
        if let Some(pause) = pause {
            tokio::select! {
                () = time::sleep(pause) => {}
                () = link.nudged() => {}
            }
        }
    }
}

/// Serves a connection to its end; says what ended it, if it was not its time.
async fn serve(
    connection: &Http2,
    driver: &mut Driver,
    link: &Link,
    shared: &Shared,
) -> Option<hyper::Error> {
    loop {
        match connection.serve(driver).await {
            Served::Ended(error) => return error,
            Served::PingDue => {
                let record = link.record();
                let asked = confirm::confirm(connection, link.target(), &record.service, &record.id);
                let asked = time::timeout(shared.config.ping_timeout, asked);
                match connection.while_driven(driver, asked).await {
                    Err(ended) => return ended,
                    // Any answer, even a refusal, is a sign of life.
                    Ok(Ok(_answer)) => {}
                    Ok(Err(_elapsed)) => {
                        let (service, address) = (&shared.service, link.target().address());
                        tracing::info!(%service, %address, "instance gives no sign of life");
                        connection.cut();
                        return None;
                    }
                }
            }
        }
    }
}

/// Notes a failed dial, wakes those who wait for it, and says how long to pause.
fn failed(link: &Link, shared: &Shared, error: CallError, begun: Instant, backoff: &mut Backoff) -> Duration {
    let pause = backoff.next();
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

/// Opens and confirms a connection within the connect time-out.
async fn dial(link: &Link, shared: &Shared) -> Result<Dialled, CallError> {
    let _turn = shared
        .dials
        .acquire()
        .await
        .map_err(|closed| CallError::new(CallErrorKind::Connect, "dialling").with_source(closed))?;
    let within = shared.config.connect_timeout;
    time::timeout(within, connect(link, shared)).await.unwrap_or_else(|_elapsed| {
        let text = format!("no connection to `{}` within {within:?}", link.key());
        Err(CallError::new(CallErrorKind::Connect, text)
            .with_source(io::Error::from(io::ErrorKind::TimedOut)))
    })
}

async fn connect(link: &Link, shared: &Shared) -> Result<Dialled, CallError> {
    let Connected { io, protocol, peer } = open(link, shared).await?;
    link.set_peer(peer);
    if protocol.unwrap_or(link.protocol()) == Protocol::Http1 {
        let Some(pool) = link.http1() else {
            let text = format!("`{}` speaks HTTP/1.1 only", link.key());
            return Err(CallError::new(CallErrorKind::Unsupported, text));
        };
        pool.add(io).await?;
        return Ok(Dialled::Http1(Arc::clone(pool)));
    }
    let record = link.record();
    let native = record.is_native();
    let (connection, mut driver) = Http2::open(io, native).await?;
    if native {
        let asked = confirm::confirm(&connection, link.target(), &record.service, &record.id);
        let answer = connection.while_driven(&mut driver, asked).await.map_err(|ended| {
            let error = CallError::new(CallErrorKind::Connect, "the connection ended while being confirmed");
            match ended {
                Some(ended) => error.with_source(ended),
                None => error,
            }
        })?;
        let id = match answer.map_err(|error| {
            CallError::new(CallErrorKind::Connect, "asking who answers").with_source(error)
        })? {
            Answer::Itself => record.id.clone(),
            Answer::Successor(id) => id,
            Answer::Another => return Ok(Dialled::Another),
            Answer::Draining(id) => {
                shared.watch.saw(&id, Seen::Draining);
                link.drain(id.clone());
                id
            }
        };
        if link.identified(&id) {
            succeeded(link, shared, &id);
        }
        if link.is_drained(&id) {
            return Err(CallError::new(CallErrorKind::Connect, "the instance is draining"));
        }
        shared.watch.saw(&id, Seen::Itself);
        let by_record = id == record.id;
        connection.confirm(id);
        if !by_record {
            shared.rebuild.notify_one();
        }
    }
    Ok(Dialled::Http2(connection, Box::new(driver)))
}

/// The address became another process of the same service.
fn succeeded(link: &Link, shared: &Shared, id: &InstanceId) {
    tracing::info!(service = %shared.service, address = %link.target().address(), %id, "instance restarted on its address");
    if let Some(node) = link.node() {
        node.reset_statistics(shared.clock.now());
    }
}

/// Opens a byte stream to the first of the node's endpoints that answers.
///
/// # Cancel safety
/// Dropping the future closes whatever was opened.
pub(crate) async fn open(link: &Link, shared: &Shared) -> Result<Connected, CallError> {
    let (connect, rules) = (&shared.config.connect, &shared.config.addresses);
    let endpoints = link.key().endpoints();
    let dials: Vec<_> = endpoints.iter().map(|endpoint| connect.connect(endpoint, rules)).collect();
    first_of(dials.into_iter()).await
}
