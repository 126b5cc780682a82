//! A connection in use: beats, signs of life, and its replacement when it is old enough or had a crowd.

use std::{sync::Arc, time::Duration};

use meshwork_core::Seen;
use meshwork_resilience::{Backoff, Pauses, chance};
use tokio::time::{self, Instant};

use crate::{
    clock, confirm,
    dial::{self, Dialled},
    http2::{Driver, Http2, Served},
    lines::Place,
    link::Link,
    shared::Shared,
};

/// A connection that ends earlier, without a call, counts as a failed dial.
pub(crate) const SHORT_LIVED: Duration = Duration::from_secs(1);

/// A connection with the half that its owner polls.
pub(crate) struct Held {
    pub(crate) connection: Arc<Http2>,
    pub(crate) driver: Box<Driver>,
}

impl Held {
    /// Lets calls find it.
    pub(crate) fn publish(&self, place: Place, link: &Link, shared: &Shared) {
        link.publish(place, &self.connection);
        shared.pulse.add(&self.connection);
        shared.wake_all();
    }

    /// Serves it as the first connection, and every one that replaces it, by age or after a crowd, until it
    /// takes no more calls; says what ended it, if it was not its time.
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up: open streams finish, new ones are not begun.
    pub(crate) async fn serve_and_renew(&mut self, link: &Link, shared: &Shared) -> Option<hyper::Error> {
        let aged = || shared.config.max_age.map(|age| Instant::now() + clock::aged(age));
        let mut old = aged();
        loop {
            let due = self.until(old, link, shared).await;
            if let Due::Ended(error) = due {
                return error;
            }
            // Boxed, so that a node does not carry the room of a dial for ever.
            match Box::pin(self.successor(&due, link, shared)).await {
                Err(error) => return error,
                Ok(None) => {}
                Ok(Some(successor)) => {
                    let before = std::mem::replace(self, successor);
                    old = aged();
                    self.publish(Place::First, link, shared);
                    // Its queue is handed back to the calls in it, which find the new one.
                    before.connection.retire();
                    let (service, address) = (&shared.service, link.target().address());
                    tracing::debug!(%service, %address, ?due, "connection replaced");
                }
            }
        }
    }

    /// Serves until something is due: at `old` its age.
    async fn until(&mut self, old: Option<Instant>, link: &Link, shared: &Shared) -> Due {
        let serving = self.serve_until_outgrown(link, shared);
        match old {
            Some(at) => time::timeout_at(at, serving).await.unwrap_or(Due::Old),
            None => serving.await,
        }
    }

    /// Dials the connection that replaces this one, which serves on; `None` when there is none and this one
    /// will do.
    async fn successor(
        &mut self,
        due: &Due,
        link: &Link,
        shared: &Shared,
    ) -> Result<Option<Self>, Option<hyper::Error>> {
        let mut backoff = Pauses::new(Backoff::CONNECT);
        loop {
            tokio::select! {
                ended = self.serve(link, shared) => return Err(ended),
                dialled = dial::dial(link, shared) => {
                    if let Ok(Dialled::Http2(connection, driver)) = dialled {
                        return Ok(Some(Self { connection, driver }));
                    }
                }
            }
            if let Due::Outgrown = due {
                return Ok(None);
            }
            let pause = backoff.next(chance::bits());
            if let Ok(ended) = time::timeout(pause, self.serve(link, shared)).await {
                return Err(ended);
            }
        }
    }

    /// Serves it until it takes no more calls; says what ended it, if it was not its time.
    ///
    /// # Cancel safety
    /// As [`serve_and_renew`](Self::serve_and_renew).
    pub(crate) async fn serve(&mut self, link: &Link, shared: &Shared) -> Option<hyper::Error> {
        loop {
            if let Due::Ended(error) = self.serve_until_outgrown(link, shared).await {
                return error;
            }
        }
    }

    /// The same, or until a crowd is over.
    async fn serve_until_outgrown(&mut self, link: &Link, shared: &Shared) -> Due {
        let Self { connection, driver } = self;
        let on_beat = || {
            if let Some(node) = link.node() {
                link.review(&node);
            }
        };
        loop {
            match connection.serve(driver, on_beat).await {
                Served::Ended(error) => return Due::Ended(error),
                Served::Outgrown => return Due::Outgrown,
                Served::PingDue => {
                    let record = link.record();
                    let asked = confirm::confirm(connection, link.target(), &record.service, &record.id);
                    let asked = time::timeout(shared.config.ping_timeout, asked);
                    match connection.while_driven(driver, asked).await {
                        Err(ended) => return Due::Ended(ended),
                        // Any answer, even a refusal, is a sign of life.
                        Ok(Ok(_answer)) => {}
                        Ok(Err(_elapsed)) => {
                            let (service, address) = (&shared.service, link.target().address());
                            tracing::info!(%service, %address, "instance gives no sign of life");
                            shared.watch.saw(&record.id, Seen::Silent);
                            connection.cut();
                            return Due::Ended(None);
                        }
                    }
                }
            }
        }
    }
}

/// Why a connection is no more the one to serve.
#[derive(Debug)]
enum Due {
    /// It takes no more calls.
    Ended(Option<hyper::Error>),
    /// It is old enough to be replaced.
    Old,
    /// It had a crowd, whose memory it keeps.
    Outgrown,
}
