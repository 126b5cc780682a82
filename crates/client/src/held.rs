//! A connection in use: beats, signs of life, and its replacement when it is old enough.

use std::{sync::Arc, time::Duration};

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

    /// Serves it as the first connection, and every one that replaces it by age, until it takes no more
    /// calls; says what ended it, if it was not its time.
    ///
    /// # Cancel safety
    /// Dropping the future gives the connection up: open streams finish, new ones are not begun.
    pub(crate) async fn serve_and_renew(&mut self, link: &Link, shared: &Shared) -> Option<hyper::Error> {
        let Some(age) = shared.config.max_age else { return self.serve(link, shared).await };
        loop {
            if let Err(error) = self.until(Instant::now() + clock::aged(age), link, shared).await {
                return error;
            }
            // Boxed, so that a node does not carry the room of a dial for ever.
            match Box::pin(self.successor(link, shared)).await {
                Err(error) => return error,
                Ok(successor) => {
                    let old = std::mem::replace(self, successor);
                    self.publish(Place::First, link, shared);
                    // Its queue is handed back to the calls in it, which find the new one.
                    old.connection.retire();
                    let (service, address) = (&shared.service, link.target().address());
                    tracing::debug!(%service, %address, "connection replaced by age");
                }
            }
        }
    }

    /// Serves until then; an error is the connection's end.
    async fn until(&mut self, at: Instant, link: &Link, shared: &Shared) -> Result<(), Option<hyper::Error>> {
        time::timeout_at(at, self.serve(link, shared)).await.map_or(Ok(()), Err)
    }

    /// Dials the connection that replaces this one, which serves on.
    async fn successor(&mut self, link: &Link, shared: &Shared) -> Result<Self, Option<hyper::Error>> {
        let mut backoff = Pauses::new(Backoff::CONNECT);
        loop {
            tokio::select! {
                ended = self.serve(link, shared) => return Err(ended),
                dialled = dial::dial(link, shared) => {
                    if let Ok(Dialled::Http2(connection, driver)) = dialled {
                        return Ok(Self { connection, driver });
                    }
                }
            }
            self.until(Instant::now() + backoff.next(chance::bits()), link, shared).await?;
        }
    }

    /// Serves it until it takes no more calls; says what ended it, if it was not its time.
    ///
    /// # Cancel safety
    /// As [`serve_and_renew`](Self::serve_and_renew).
    pub(crate) async fn serve(&mut self, link: &Link, shared: &Shared) -> Option<hyper::Error> {
        let Self { connection, driver } = self;
        let on_beat = || {
            if let Some(node) = link.node() {
                link.review(&node);
            }
        };
        loop {
            match connection.serve(driver, on_beat).await {
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
}
