//! Keeps all leases of one backend alive over one stream.
//!
//! A renewal is asked for when a third of the time to live has passed since the last one was sent. An
//! answer of 0 says that the lease is gone; silence for the attempt timeout costs the link its trust. Some
//! releases of etcd judge each renewal by the token that the stream was opened with: an old one costs the
//! stream, and a renewal that is not permitted ends the stream of all others too.

use std::{
    collections::BTreeMap,
    future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use etcd_client::{LeaseKeepAliveResponse, LeaseKeepAliveStream, LeaseKeeper};
use meshwork_core::{Error, ErrorKind};
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
    /// etcd does not let us renew it.
    Denied,
}

/// Why a stream ended.
enum End {
    Failed(Error),
    /// Its token is not taken any more.
    Token,
    /// One renewal is not permitted.
    Denied,
}

type Open = (LeaseKeeper, LeaseKeepAliveStream);

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
        loop {
            self.lock().values_mut().for_each(|kept| kept.asked = None);
            let mut token = 0;
            match self.stream(link, members, &mut token).await {
                End::Failed(error) => return error,
                End::Denied => {}
                End::Token => {
                    if let Err(error) = members.admitted(link, token).await {
                        return error;
                    }
                }
            }
        }
    }

    /// One stream, opened by the first renewal with what becomes `token`.
    async fn stream(&self, link: &Link, members: &Members, token: &mut u64) -> End {
        let patience = members.attempt_timeout();
        let mut stream: Option<Open> = None;
        loop {
            let (next, overdue) = (self.next(), self.oldest_asked().map(|(_, asked)| asked + patience));
            let done = tokio::select! {
                answer = message(&mut stream) => self.answered(answer, link, members),
                lease = due(next) => self.renew(lease, &mut stream, link, members, token).await,
                () = at(overdue) => {
                    let text = format!("{} did not renew a lease within {patience:?}", link.address);
                    Err(End::Failed(Error::unavailable(text)))
                }
                () = self.changed.notified() => Ok(()),
            };
            if let Err(end) = done {
                return end;
            }
        }
    }

    async fn renew(
        &self,
        lease: i64,
        stream: &mut Option<Open>,
        link: &Link,
        members: &Members,
        token: &mut u64,
    ) -> Result<(), End> {
        let patience = members.attempt_timeout();
        let context = || format!("renewing lease {lease:x} at {}", link.address);
        let silent = |_elapsed| End::Failed(Error::unavailable(context()));
        if stream.is_none() {
            // Also the first login may be refused: the stream waits then.
            *token = members.token(link).await.map_err(|error| match error.kind() {
                ErrorKind::Denied => End::Token,
                _ => End::Failed(error),
            })?;
        }
        match self.lock().get_mut(&lease) {
            Some(kept) => kept.asked = Some(Instant::now()),
            None => return Ok(()),
        }
        let Some((keeper, _)) = stream else {
            // The first renewal opens the stream and is answered with it.
            let mut client = link.lease.clone();
            let opened = time::timeout(patience, client.keep_alive(lease)).await.map_err(silent)?;
            match opened {
                Ok(open) => {
                    *stream = Some(open);
                    members.proved(*token);
                    self.alive(lease, None);
                }
                Err(etcd_client::Error::LeaseKeepAliveError(_)) => self.gone(lease, Life::Gone),
                Err(cause) => return Err(self.refused(cause, context(), members)),
            }
            return Ok(());
        };
        keeper.id = lease;
        let sent = time::timeout(patience, keeper.keep_alive()).await.map_err(silent)?;
        sent.map_err(|e| End::Failed(errors::of(context(), e)))
    }

    fn answered(
        &self,
        answer: Result<Option<LeaseKeepAliveResponse>, etcd_client::Error>,
        link: &Link,
        members: &Members,
    ) -> Result<(), End> {
        let context = || format!("keeping leases at {}", link.address);
        let answer = answer
            .map_err(|cause| self.refused(cause, context(), members))?
            .ok_or_else(|| End::Failed(Error::unavailable(format!("{}: the stream ended", context()))))?;
        members.check(answer.header()).map_err(End::Failed)?;
        match u64::try_from(answer.ttl()) {
            Ok(seconds @ 1..) => self.alive(answer.id(), Some(Duration::from_secs(seconds))),
            _ => self.gone(answer.id(), Life::Gone),
        }
        Ok(())
    }

    /// What the end of a stream means. etcd answers in the order of the asking: it was the oldest renewal
    /// that was not permitted.
    fn refused(&self, cause: etcd_client::Error, context: String, members: &Members) -> End {
        if members.is_mended_by_login(&cause) {
            return End::Token;
        }
        if errors::is_not_permitted(&cause)
            && let Some((lease, _)) = self.oldest_asked()
        {
            self.gone(lease, Life::Denied);
            return End::Denied;
        }
        End::Failed(errors::of(context, cause))
    }

    fn alive(&self, lease: i64, granted: Option<Duration>) {
        if let Some(kept) = self.lock().get_mut(&lease) {
            let Some(since) = kept.asked.take() else { return };
            kept.life.send_if_modified(|life| match life {
                Life::Alive { ttl, .. } => {
                    *life = Life::Alive { since, ttl: granted.unwrap_or(*ttl) };
                    true
                }
                Life::Gone | Life::Denied => false,
            });
        }
    }

    fn gone(&self, lease: i64, how: Life) {
        if let Some(kept) = self.lock().get_mut(&lease) {
            kept.asked = None;
            kept.life.send_replace(how);
        }
    }

    /// The lease to renew next, and when.
    fn next(&self) -> Option<(i64, Instant)> {
        let leases = self.lock();
        let waiting = leases.iter().filter(|(_, kept)| kept.asked.is_none());
        waiting
            .filter_map(|(lease, kept)| match *kept.life.borrow() {
                Life::Alive { since, ttl } => Some((*lease, since + ttl / 3)),
                Life::Gone | Life::Denied => None,
            })
            .min_by_key(|(_, due)| *due)
    }

    fn oldest_asked(&self) -> Option<(i64, Instant)> {
        let leases = self.lock();
        let asked = leases.iter().filter_map(|(lease, kept)| Some((*lease, kept.asked?)));
        asked.min_by_key(|(_, asked)| *asked)
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
        keeper.gone(7, Life::Gone);
        assert_eq!(*keep.watch().borrow(), Life::Gone);
        assert_eq!(keeper.next(), None);
        drop(keep);
        assert!(keeper.lock().is_empty());
    }
}
