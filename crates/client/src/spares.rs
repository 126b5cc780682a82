//! The connections of a node beside its first one: opened when its peer allows no more streams on those there
//! are, given up once they were idle.

use std::{
    future::{self, Future},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use meshwork_resilience::{Backoff, Pauses, chance};
use tokio::time::{self, Instant};

use crate::{
    CallError, ConnectionState, clock,
    dial::{self, Dialled},
    held::{Held, SHORT_LIVED},
    http2::Http2,
    lines::Place,
    link::Link,
    shared::Shared,
};

type Dial<'a> = Pin<Box<dyn Future<Output = Result<Dialled, CallError>> + Send + 'a>>;

/// Opens a spare each time calls find every connection full, one dial at a time, and serves them all.
///
/// # Cancel safety
/// Dropping the future gives the connections up: open streams finish, new ones are not begun.
pub(crate) async fn keep(link: Arc<Link>, shared: Arc<Shared>) {
    let (link, shared) = (&*link, &*shared);
    let mut spares = FuturesUnordered::new();
    let mut dial: Option<Dial<'_>> = None;
    let mut pauses = SparePauses::new();
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            biased; // a new spare is published before it is asked whether there is room
            Some(ended) = spares.next() => if let Ended::AtOnce = ended {
                not_before = Instant::now() + pauses.next(chance::bits());
            },
            () = crowded(link, not_before), if dial.is_none() => {
                if link.lines().free().is_some() && !link.lines().is_empty() && !link.lines().have_room() {
                    dial = Some(Box::pin(dial::dial(link, shared)));
                }
            }
            dialled = async { dial.as_mut().expect("invariant: polled only while there is one").await },
                if dial.is_some() =>
            {
                dial = None;
                match (dialled, link.lines().free()) {
                    (Ok(Dialled::Http2(connection, driver)), Some(nth)) => {
                        pauses.opened = Some(Instant::now());
                        spares.push(serve(Held { connection, driver }, Place::Spare(nth), link, shared));
                    }
                    // What is wrong is the business of the first connection, when that ends.
                    _ => {
                        not_before = Instant::now() + pauses.next(chance::bits());
                        link.ask_again();
                    }
                }
            }
        }
    }
}

/// Waits until calls find every connection full, from then on.
async fn crowded(link: &Link, not_before: Instant) {
    time::sleep_until(not_before).await;
    link.is_crowded().await;
}

/// How a spare came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Its peer closed it before it was of any use, which is no better than a failed dial.
    AtOnce,
    /// It had its time.
    Later,
}

/// The pauses between dials: they begin anew once a spare has lasted.
struct SparePauses {
    pauses: Pauses,
    /// When the last spare was opened, until that was considered.
    opened: Option<Instant>,
}

impl SparePauses {
    fn new() -> Self {
        Self { pauses: Pauses::new(Backoff::CONNECT), opened: None }
    }

    /// The pause after a failure.
    fn next(&mut self, random: u64) -> Duration {
        if self.opened.take().is_some_and(|opened| opened.elapsed() >= SHORT_LIVED) {
            self.pauses.reset();
        }
        self.pauses.next(random)
    }
}

async fn serve(mut held: Held, place: Place, link: &Link, shared: &Shared) -> Ended {
    let (calls, opened) = (held.connection.calls(), Instant::now());
    tracing::debug!(service = %shared.service, address = %link.target().address(), ?place, "spare connected");
    held.publish(place, link, shared);
    let connection = Arc::clone(&held.connection);
    let was_idle = tokio::select! {
        _ended = held.serve(link, shared) => false,
        () = idle(&connection, shared.config.spare_idle) => true,
        () = old(shared.config.max_age) => false,
    };
    link.withdraw(place, ConnectionState::Connecting);
    if !was_idle {
        link.ask_again();
    }
    let lasted = was_idle || connection.calls() > calls || opened.elapsed() >= SHORT_LIVED;
    let ended = if lasted { Ended::Later } else { Ended::AtOnce };
    tracing::debug!(service = %shared.service, address = %link.target().address(), ?place, ?ended, "spare given up");
    ended
}

/// Waits for the age at which a connection is given up.
async fn old(age: Option<Duration>) {
    match age {
        Some(age) => time::sleep(clock::aged(age)).await,
        None => future::pending().await,
    }
}

/// Waits until a connection had no call for so long.
async fn idle(connection: &Http2, limit: Duration) {
    let mut calls = connection.calls();
    loop {
        time::sleep(limit).await;
        let now = connection.calls();
        if now == calls && connection.open_streams() == 0 {
            return;
        }
        calls = now;
    }
}
