//! The announcing side: one lease per registration, all records of the instance under it in one
//! transaction, and a watch of our own keys.
//!
//! Nothing is sent twice that could come back late and do harm: a grant is asked for once per lease id,
//! and a record is written only over what was there when we looked. So a lease that is revoked stays
//! revoked, and no late put finds one.

use std::{sync::atomic::Ordering, time::Duration};

use etcd_client::LeaseGrantOptions;
use futures_util::future::{join_all, select_all};
use meshwork_core::{Announcer, Error, ErrorKind, Instance};
use tokio::{sync::watch, time, time::Instant};

use crate::{
    claim::{Claim, Found, Granted, Written},
    errors,
    hub::Hub,
    keeper::Life,
    keys::Records,
    members::Failure,
    record::{Entry, Event},
    store,
    taps::{Range, Tap, Told},
};

/// How often a write is tried again because somebody else wrote in between.
const ROUNDS: usize = 4;
/// The longest that one attempt at revoking may take, and all of them: leaving has 2 s with its mark.
const REVOKE: (Duration, Duration) = (Duration::from_millis(700), Duration::from_millis(1600));

/// How a write ended.
enum Outcome {
    Written,
    LeaseGone,
}

impl Announcer for Hub {
    type Claim = Claim;

    async fn claim(&self, instance: &Instance, slot: &mut Option<Claim>) -> Result<(), Error> {
        let records = self.keys.records(instance, 0)?;
        let claim = slot.get_or_insert_default();
        claim.rest();
        if claim.written.as_ref().is_some_and(|written| written.records[0].0 != records[0].0) {
            // Another id is another record: the old lease ends once the new one stands.
            claim.forget_record();
        }
        self.verify_lease(claim).await?;
        for _ in 0..2 {
            let lease = match claim.lease {
                Some(lease) => lease.id,
                None => self.grant(claim, instance).await?,
            };
            match self.write(claim, lease, instance).await? {
                Outcome::Written => return self.revoke_others(claim, lease).await,
                Outcome::LeaseGone => claim.lose_lease(),
            }
        }
        Err(Error::unavailable(format!("announcing `{}`: its lease ended at once", instance.id)))
    }

    async fn hold(&self, claim: &mut Claim) -> Error {
        let (Some(lease), Some(written)) = (claim.lease, claim.written.clone()) else {
            return Error::unavailable("nothing is announced");
        };
        let keep = claim.keep.get_or_insert_with(|| self.keeper.keep(lease.id, lease.since, lease.ttl));
        let life = keep.watch();
        tokio::select! {
            error = renewed(lease.id, life) => error,
            error = self.stands(claim, &written) => error,
        }
    }

    async fn update(&self, claim: &mut Claim, instance: &Instance) -> Result<(), Error> {
        let lease = claim.lease.ok_or_else(|| Error::unavailable("nothing is announced"))?;
        match self.write(claim, lease.id, instance).await? {
            Outcome::Written => Ok(()),
            Outcome::LeaseGone => {
                claim.lose_lease();
                Err(Error::unavailable(format!("updating `{}`: its lease is gone", instance.id)))
            }
        }
    }

    async fn release(&self, mut claim: Claim) -> Result<(), Error> {
        claim.rest();
        claim.keep = None;
        let revoked = join_all(claim.noted.iter().map(|lease| self.revoke(*lease))).await;
        revoked.into_iter().collect()
    }
}

impl Hub {
    /// Makes sure that the confirmed lease still lives, or forgets it.
    async fn verify_lease(&self, claim: &mut Claim) -> Result<(), Error> {
        let Some(lease) = claim.lease else { return Ok(()) };
        let asked = Instant::now();
        let answer = self.members.call(|link| {
            let mut client = link.lease.clone();
            async move { client.time_to_live(lease.id, None).await }
        });
        let answer = answer.await.map_err(|f| f.into_error(format!("asking for lease {:x}", lease.id)))?;
        match u64::try_from(answer.ttl()) {
            Ok(left @ 1..) => {
                // It was renewed so long ago as its time has run down.
                let spent = lease.ttl.saturating_sub(Duration::from_secs(left));
                let since = asked.checked_sub(spent).unwrap_or(asked);
                claim.lease = Some(Granted { since, ..lease });
                // Kept anew, as what was known of its life may be old. The old one goes first.
                claim.keep = None;
                claim.keep = claim.written.is_some().then(|| self.keeper.keep(lease.id, since, lease.ttl));
            }
            _ => claim.lose_lease(),
        }
        Ok(())
    }

    /// Asks for a new lease, each time under another id.
    async fn grant(&self, claim: &mut Claim, instance: &Instance) -> Result<i64, Error> {
        let ttl = self.config.ttl_seconds();
        let mut last = None;
        for _ in 0..2 {
            let (id, asked) = (crate::random::lease(), Instant::now());
            claim.note(id);
            let answer = self.members.once(|link| {
                let mut client = link.lease.clone();
                async move { client.grant(ttl, Some(LeaseGrantOptions::new().with_id(id))).await }
            });
            match answer.await {
                Ok(granted) => {
                    let seconds = u64::try_from(granted.ttl()).unwrap_or(1).max(1);
                    let ttl = Duration::from_secs(seconds);
                    claim.lease = Some(Granted { id, ttl, since: asked });
                    return Ok(id);
                }
                // An empty lease that nobody renews and no record stands under ends by itself.
                Err(Failure::Unanswered(error)) if error.kind().is_transient() => last = Some(error),
                Err(failure) => return Err(failure.into_error(granting(instance))),
            }
        }
        let last = last.unwrap_or_else(|| Error::unavailable("no answer"));
        Err(Error::unavailable(granting(instance)).with_source(last))
    }

    /// Writes the records of `instance` under `lease`, over whatever of ours stands there.
    async fn write(&self, claim: &mut Claim, lease: i64, instance: &Instance) -> Result<Outcome, Error> {
        let context = || format!("writing the record of `{}`", instance.id);
        let records = self.keys.records(instance, lease)?;
        claim.note_self(instance);
        let mut over = claim.written.as_ref().map_or(0, |written| written.revision);
        for _ in 0..ROUNDS {
            let revision = match store::put(&self.members, &records, lease, over).await {
                Ok(store::Put::Done { revision }) => revision,
                Ok(store::Put::Found(found)) => match claim.judge(&self.keys, &records, lease, &found) {
                    Found::Same => found.iter().flatten().map(|entry| entry.revision).max().unwrap_or(0),
                    Found::Absent => {
                        over = 0;
                        continue;
                    }
                    Found::Differs { revision } => {
                        over = revision;
                        continue;
                    }
                    Found::Another => return Err(self.judged(Found::Another, &records)),
                },
                Err(Failure::Refused(cause)) if errors::is_lease_gone(&cause) => {
                    return Ok(Outcome::LeaseGone);
                }
                Err(failure) => return Err(failure.into_error(context())),
            };
            claim.written = Some(Written { records, lease, revision });
            return Ok(Outcome::Written);
        }
        Err(Error::unavailable(format!("{}: others keep writing it", context())))
    }

    /// Ends every noted lease but `current`.
    async fn revoke_others(&self, claim: &mut Claim, current: i64) -> Result<(), Error> {
        while let Some(other) = claim.noted.iter().copied().find(|lease| *lease != current) {
            self.revoke(other).await?;
            claim.noted.retain(|lease| *lease != other);
        }
        Ok(())
    }

    async fn revoke(&self, lease: i64) -> Result<(), Error> {
        let answer = self.members.call_within(REVOKE.0, REVOKE.1, |link| {
            let mut client = link.lease.clone();
            async move { client.revoke(lease).await }
        });
        match answer.await {
            Ok(_) => Ok(()),
            Err(Failure::Refused(cause)) if errors::is_lease_gone(&cause) => Ok(()),
            Err(failure) => Err(failure.into_error(format!("revoking lease {lease:x}"))),
        }
    }

    /// Watches our own keys; returns when something else stands there, or that cannot be known.
    async fn stands(&self, claim: &mut Claim, written: &Written) -> Error {
        loop {
            if claim.watch.is_empty() {
                match self.look(claim, written).await {
                    Ok(taps) => claim.watch = taps,
                    Err(error) => return error,
                }
            }
            if let Some(found) = overhear(claim, written, &self.keys).await {
                return self.judged(found, &written.records);
            }
            // A gap of the watch: read again.
            claim.watch.clear();
        }
    }

    /// Opens a watch of each key and then reads them all, so that nothing lies between.
    async fn look(&self, claim: &Claim, written: &Written) -> Result<Vec<Tap>, Error> {
        let context = || format!("verifying {}", written.records[0].0);
        let mut taps = Vec::with_capacity(written.records.len());
        for (key, _) in &written.records {
            taps.push(self.taps.open(Range::Key(key.as_str().into()), 0));
        }
        let created = join_all(taps.iter_mut().map(created));
        let created = time::timeout(2 * self.members.request_timeout(), created).await;
        let created = created.map_err(|_elapsed| match self.taps.absent() {
            Some(cause) => errors::again(context(), &cause),
            None => Error::unavailable(format!("{}: no watch", context())),
        })?;
        // Read in any case: what is denied of an old token is asked for with another one, see `Feed::refused`.
        let found = store::read(&self.members, &written.records).await;
        let found = found.map_err(|failure| failure.into_error(context()))?;
        for outcome in created {
            outcome.map_err(|cause| match cause.kind() {
                ErrorKind::Denied => {
                    Error::unavailable(format!("{}: it was denied, though reading is not", context()))
                }
                _ => errors::again(context(), &cause),
            })?;
        }
        match claim.judge(&self.keys, &written.records, written.lease, &found) {
            Found::Same => Ok(taps),
            other => Err(self.judged(other, &written.records)),
        }
    }

    /// The error that tells the driver to claim again, or to go on under another id.
    fn judged(&self, found: Found, records: &Records) -> Error {
        let key = &records[0].0;
        if found == Found::Another {
            return Error::new(ErrorKind::Conflict, format!("{key} is the record of another process"));
        }
        let put_back = self.put_back.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::info!(%key, ?found, put_back, "own record is not as it was written");
        Error::unavailable(match found {
            Found::Absent => format!("{key} was removed"),
            _ => format!("{key} was changed by somebody else"),
        })
    }
}

fn granting(instance: &Instance) -> String {
    format!("granting a lease for `{}`", instance.id)
}

/// Returns when `lease` is gone, or has not been renewed for all its time.
async fn renewed(lease: i64, mut life: watch::Receiver<Life>) -> Error {
    loop {
        let now = *life.borrow_and_update();
        let (since, ttl) = match now {
            Life::Alive { since, ttl } => (since, ttl),
            Life::Gone => return Error::unavailable(format!("lease {lease:x} is gone")),
            Life::Denied => {
                let text = format!("renewing lease {lease:x}: etcd does not permit it");
                return Error::new(ErrorKind::Denied, text);
            }
        };
        tokio::select! {
            changed = life.changed() => if changed.is_err() {
                return Error::unavailable(format!("lease {lease:x} is no longer kept"));
            },
            () = time::sleep_until(since + ttl) => {
                return Error::unavailable(format!("lease {lease:x} was not renewed within {ttl:?}"));
            }
        }
    }
}

async fn created(tap: &mut Tap) -> Result<(), std::sync::Arc<Error>> {
    loop {
        match tap.next().await {
            Told::Created { .. } => return Ok(()),
            Told::Cut(cause) => return Err(cause),
            Told::Events(_) | Told::Progress { .. } | Told::Compacted => {}
        }
    }
}

/// What else than `written` comes to stand under our keys; `None` after a gap of the watch.
async fn overhear(claim: &mut Claim, written: &Written, keys: &crate::keys::Keys) -> Option<Found> {
    loop {
        let nexts = claim.watch.iter_mut().map(|tap| Box::pin(tap.next()));
        let (told, place, _) = select_all(nexts).await;
        let events = match told {
            Told::Events(events) => events,
            Told::Created { .. } | Told::Progress { .. } => continue,
            Told::Compacted | Told::Cut(_) => return None,
        };
        // Only what is newer than our own writing, and of it only the last.
        let last = events.into_iter().rfind(|event| event.revision() > written.revision);
        let found: Option<Entry> = match last {
            None => continue,
            Some(Event::Put(entry)) => Some(entry),
            Some(Event::Removed { .. }) => None,
        };
        let one = vec![written.records[place].clone()];
        match claim.judge(keys, &one, written.lease, &[found]) {
            Found::Same => {}
            other => return Some(other),
        }
    }
}
