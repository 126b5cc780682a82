//! Keeps all leases of one backend alive over one stream.
//!
//! A renewal is asked for when a third of the time to live has passed since the last one was sent. An
//! answer of 0 says that the lease is gone; silence for the attempt timeout costs the link its trust.

use std::{
    collections::BTreeMap,
    future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper};
use meshwork_core::Error;
use tokio::{
    sync::{Notify, watch},
    time,
    time::Instant,
};

use crate::{errors, link::Link, members::Members};

/// What is known of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It lives for `ttl` after `since`, when its last successful renewal was sent.
    Alive { since: Instant, ttl: Duration },
    /// etcd says that it does not exist.
    Gone,
}

/// All leases that are to be kept, whether there is a stream or not.
#[derive(Default)]
pub(crate) struct Keeper {
    leases: Mutex<BTreeMap<i64, Kept>>,
    changed: Notify,
}

struct Kept {
    life: watch::Sender<Life>,
    /// When the renewal that is under way was sent.
    asked: Option<Instant>,
}

/// Keeps one lease as long as it lives itself.
pub(crate) struct Keep {
    lease: i64,
    life: watch::Receiver<Life>,
    keeper: Arc<Keeper>,
}

impl Keep {
    pub(crate) fn watch(&self) -> watch::Receiver<Life> {
        self.life.clone()
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        self.keeper.lock().remove(&self.lease);
        self.keeper.changed.notify_one();
    }
}

impl Keeper {
    /// Keeps `lease`, which was granted or verified at `since`.
    pub(crate) fn keep(self: &Arc<Self>, lease: i64, since: Instant, ttl: Duration) -> Keep {
        let (life, seen) = watch::channel(Life::Alive { since, ttl });
        self.lock().insert(lease, Kept { life, asked: None });
        self.changed.notify_one();
        Keep { lease, life: seen, keeper: Arc::clone(self) }
    }

    /// Keeps the leases over `link` until that fails.
    ///
    /// # Cancel safety
    /// May be dropped at any await: what was under way is asked for anew by the next run.
    pub(crate) async fn run(&self, link: &Link, members: &Members) -> Error {
        for kept in self.lock().values_mut() {
            kept.asked = None;
        }
        let patience = members.attempt_timeout();
        let mut stream: Option<(LeaseKeeper, LeaseKeepAliveStream)> = None;
        loop {
            let (next, overdue) = (self.next(), self.oldest_asked().map(|asked| asked + patience));
            tokio::select! {
                answer = message(&mut stream) => {
                    if let Err(error) = self.answered(answer, link, members) {
                        return error;
                    }
                }
                lease = due(next) => {
                    if let Err(error) = self.renew(lease, &mut stream, link, patience).await {
                        return error;
                    }
                }
                () = at(overdue) => {
                    return Error::unavailable(format!("{} did not renew a lease within {patience:?}", link.address));
                }
                () = self.changed.notified() => {}
            }
        }
    }

    async fn renew(
        &self,
        lease: i64,
        stream: &mut Option<(LeaseKeeper, LeaseKeepAliveStream)>,
        link: &Link,
        patience: Duration,
    ) -> Result<(), Error> {
        let sent = Instant::now();
        match self.lock().get_mut(&lease) {
            Some(kept) => kept.asked = Some(sent),
            None => return Ok(()),
        }
        let context = || format!("renewing lease {lease:x} at {}", link.address);
        let silent = |_elapsed| Error::unavailable(context());
        let Some((keeper, _)) = stream else {
            // The first renewal opens the stream and is answered with it.
            let mut client = link.lease.clone();
            let opened = time::timeout(patience, client.keep_alive(lease)).await.map_err(silent)?;
            match opened {
                Ok(open) => {
                    *stream = Some(open);
                    self.alive(lease, None);
                }
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => self.gone(lease),
                Err(cause) => return Err(errors::of(context(), cause)),
            }
            return Ok(());
        };
        keeper.id = lease;
        time::timeout(patience, keeper.keep_alive())
            .await
            .map_err(silent)?
            .map_err(|e| errors::of(context(), e))
    }

    fn answered(
        &self,
        answer: Result<Option<LeaseKeepAliveResponse>, etcd_client::Error>,
        link: &Link,
        members: &Members,
    ) -> Result<(), Error> {
        let context = || format!("keeping leases at {}", link.address);
        let answer = answer
            .map_err(|e| errors::of(context(), e))?
            .ok_or_else(|| Error::unavailable(format!("{}: the stream ended", context())))?;
        members.check(answer.header())?;
        match u64::try_from(answer.ttl()) {
            Ok(seconds @ 1..) => self.alive(answer.id(), Some(Duration::from_secs(seconds))),
            _ => self.gone(answer.id()),
        }
        Ok(())
    }

    fn alive(&self, lease: i64, granted: Option<Duration>) {
        if let Some(kept) = self.lock().get_mut(&lease) {
            let Some(since) = kept.asked.take() else { return };
            kept.life.send_if_modified(|life| match life {
                Life::Alive { ttl, .. } => {
                    *life = Life::Alive { since, ttl: granted.unwrap_or(*ttl) };
                    true
                }
                Life::Gone => false,
            });
        }
    }

    fn gone(&self, lease: i64) {
        if let Some(kept) = self.lock().get_mut(&lease) {
            kept.asked = None;
            kept.life.send_replace(Life::Gone);
        }
    }

    /// The lease to renew next, and when.
    fn next(&self) -> Option<(i64, Instant)> {
        let leases = self.lock();
        let waiting = leases.iter().filter(|(_, kept)| kept.asked.is_none());
        waiting
            .filter_map(|(lease, kept)| match *kept.life.borrow() {
                Life::Alive { since, ttl } => Some((*lease, since + ttl / 3)),
                Life::Gone => None,
            })
            .min_by_key(|(_, due)| *due)
    }

    fn oldest_asked(&self) -> Option<Instant> {
        self.lock().values().filter_map(|kept| kept.asked).min()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Kept>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn message(
    stream: &mut Option<(LeaseKeeper, LeaseKeepAliveStream)>,
) -> Result<Option<LeaseKeepAliveResponse>, etcd_client::Error> {
    match stream {
        Some((_, answers)) => answers.message().await,
        None => future::pending().await,
    }
}

async fn due(next: Option<(i64, Instant)>) -> i64 {
    match next {
        Some((lease, due)) => {
            time::sleep_until(due).await;
            lease
        }
        None => future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(3);

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_due_after_a_third_of_its_time() {
        let keeper = Arc::new(Keeper::default());
        let now = Instant::now();
        let _late = keeper.keep(7, now, TTL);
        let _soon = keeper.keep(9, now, TTL / 2);
        assert_eq!(keeper.next(), Some((9, now + TTL / 6)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_counts_from_when_it_was_sent() {
        let keeper = Arc::new(Keeper::default());
        let keep = keeper.keep(7, Instant::now(), TTL);
        let sent = Instant::now() + Duration::from_secs(1);
        keeper.lock().get_mut(&7).unwrap().asked = Some(sent);
        assert_eq!(keeper.next(), None, "one renewal at a time");
        keeper.alive(7, Some(TTL * 2));
        assert_eq!(*keep.watch().borrow(), Life::Alive { since: sent, ttl: TTL * 2 });
        keeper.alive(7, Some(TTL));
        assert_eq!(
            *keep.watch().borrow(),
            Life::Alive { since: sent, ttl: TTL * 2 },
            "an answer to nothing says nothing"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_gone_stays_gone_and_is_not_renewed() {
        let keeper = Arc::new(Keeper::default());
        let keep = keeper.keep(7, Instant::now(), TTL);
        keeper.gone(7);
        assert_eq!(*keep.watch().borrow(), Life::Gone);
        assert_eq!(keeper.next(), None);
        drop(keep);
        assert!(keeper.lock().is_empty());
    }
}
