//! Opening one connection to a node: TCP or TLS, the protocol's beginning, and who answers.

use std::{io, sync::Arc};

use meshwork_core::{InstanceId, Seen};
use tokio::time;

use crate::{
    CallError, CallErrorKind, Connected, Protocol,
    confirm::{self, Answer},
    connect::first_of,
    http1::Http1,
    http2::{Driver, Http2},
    link::Link,
    shared::Shared,
};

/// What a dial came to.
pub(crate) enum Dialled {
    Http2(Arc<Http2>, Box<Driver>),
    Http1(Arc<Http1>),
    /// Somebody else answers.
    Another,
}

/// Opens and confirms a connection within the connect time-out.
///
/// # Cancel safety
/// Dropping the future closes whatever was opened.
pub(crate) async fn dial(link: &Link, shared: &Shared) -> Result<Dialled, CallError> {
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
