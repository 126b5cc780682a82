//! Announcing: a record under a lease of its own.

use std::hash::{BuildHasher, RandomState};

use meshwork_core::{Announcer, Error, ErrorKind, Instance, decode, encode};
use tokio::time::{self, Instant};

use crate::link::Hub;

/// What this process may have on the board.
pub(crate) struct Claim {
    /// Chosen here, so that it is known before anything is sent.
    lease: u64,
    /// The record as it was written last, and the revision of that.
    written: Option<(Instance, String, u64)>,
    /// When the server last said that the lease lives.
    kept: Instant,
}

impl Announcer for Hub {
    type Claim = Claim;

    async fn claim(&self, instance: &Instance, claim: &mut Option<Claim>) -> Result<(), Error> {
        let fresh = || Claim { lease: new_lease(), written: None, kept: Instant::now() };
        let claim = claim.get_or_insert_with(fresh);
        let granted = self.ask(format!("grant {} {}", claim.lease, self.ttl.as_millis())).await?;
        claim.kept = Instant::now();
        if granted.is_err() {
            // It has ended, and nothing can stand under it any more: the next attempt has another.
            claim.lease = new_lease();
            return Err(lost(instance, "its lease has ended"));
        }
        let standing = self.ask(format!("get {}", self.place(instance))).await?.unwrap_or_default();
        if let Some((lease, record)) = standing.split_once(' ')
            && lease != claim.lease.to_string()
            && is_another(record, instance)
        {
            return Err(conflict(instance));
        }
        self.update(claim, instance).await
    }

    async fn hold(&self, claim: &mut Claim) -> Error {
        let Some((own, record, revision)) = &claim.written else { return self.failed("announcing at") };
        let place = self.place(own);
        let topic = place.split(' ').next().unwrap_or_default();
        let (mut rows, mut revision) = (self.rows(topic), *revision);
        let mut keep_at = claim.kept + self.ttl / 3;
        loop {
            tokio::select! {
                () = time::sleep_until(keep_at) => match self.ask(format!("keep {}", claim.lease)).await {
                    Ok(Ok(_)) => {
                        claim.kept = Instant::now();
                        keep_at = claim.kept + self.ttl / 3;
                    }
                    Ok(Err(_ended)) => return lost(own, "its lease has ended"),
                    // A lost connection is no lost lease.
                    Err(error) if claim.kept.elapsed() > self.ttl => return error,
                    Err(_) => keep_at = Instant::now() + self.ttl / 10,
                },
                changed = rows.changed() => {
                    if changed.is_err() {
                        // What is read after a gap is newer than our own write, whatever its number.
                        (rows, revision) = (self.rows(topic), 0);
                        continue;
                    }
                    let rows = rows.borrow_and_update();
                    let Some(rows) = rows.as_ref().filter(|rows| rows.0 >= revision) else { continue };
                    match rows.1.get(own.id.as_str()) {
                        Some((lease, stands)) if *lease == claim.lease && stands == record => {}
                        Some((_, stands)) if is_another(stands, own) => return conflict(own),
                        Some(_) => return lost(own, "somebody changed its record"),
                        None => return lost(own, "its record is gone"),
                    }
                }
            }
        }
    }

    async fn update(&self, claim: &mut Claim, instance: &Instance) -> Result<(), Error> {
        let invalid = || Error::invalid(format!("writing `{}`", instance.id));
        let record = encode(instance).map_err(|refusal| invalid().with_source(refusal))?;
        let record = String::from_utf8(record).map_err(|e| invalid().with_source(e))?;
        let answer = self.ask(format!("put {} {} {record}", claim.lease, self.place(instance))).await?;
        let revision = answer.map_err(|why| lost(instance, &why))?.parse();
        let revision =
            revision.map_err(|e| Error::new(ErrorKind::Protocol, "reading a revision").with_source(e))?;
        claim.written = Some((instance.clone(), record, revision));
        Ok(())
    }

    async fn release(&self, claim: Claim) -> Result<(), Error> {
        // The server never grants an ended lease again, so that a put which comes late finds none.
        self.ask(format!("end {}", claim.lease)).await?.map(drop).map_err(Error::unavailable)
    }
}

impl Hub {
    /// Topic and id, as they stand in requests.
    fn place(&self, instance: &Instance) -> String {
        let env = if instance.env.is_empty() { &*self.env } else { &*instance.env };
        format!("{env}/{} {}", instance.service, instance.id)
    }
}

/// Whether a record is of another process than this one.
fn is_another(record: &str, own: &Instance) -> bool {
    let found = decode(record.as_bytes());
    found.is_ok_and(|found| found.endpoints != own.endpoints || found.start_time != own.start_time)
}

fn lost(instance: &Instance, why: &str) -> Error {
    Error::unavailable(format!("announcing `{}`: {why}", instance.id))
}

fn conflict(instance: &Instance) -> Error {
    let text = format!("announcing `{}`: another process has this id", instance.id);
    Error::new(ErrorKind::Conflict, text)
}

/// Random, and so far from any other.
fn new_lease() -> u64 {
    RandomState::new().hash_one(0)
}
