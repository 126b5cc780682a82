//! The announcing side: a service at the local agent, kept by heartbeats and watched for changes.
//!
//! Instances that are not `up` are put into maintenance, with a reason by which we know our own; what an
//! operator has put there stays until he takes it out.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use meshwork_core::{Announcer, Error, ErrorKind, Instance, Status};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{self, Instant};

use crate::{
    agent::{Ask, encoded},
    claim::Claim,
    entry::{Entry, Judged, Standing},
    hub::Hub,
    jitter,
    own::{self, Seen},
};

/// Begins the reason of a maintenance that we began ourselves.
const OUR_REASON: &str = "meshwork: ";
/// Between two heartbeats while the agent does not answer.
const BEAT_AGAIN: Duration = Duration::from_millis(800);
/// How long a release waits for a registration that is under way.
const OVERTAKEN: Duration = Duration::from_millis(700);

impl Announcer for Hub {
    type Claim = Claim;

    async fn claim(&self, instance: &Instance, claim: &mut Option<Claim>) -> Result<(), Error> {
        let entry = Entry::of(instance, self.agent.config())?;
        let claim = claim.get_or_insert_with(|| Claim::new(instance, Instant::now()));
        claim.rename(instance);
        settled(claim).await;
        claim.note_self(instance);
        match own::look(&self.agent, &claim.id, None).await? {
            Some((standing, _)) if entry.judge(&claim.id, &standing, &claim.selves) == Judged::Another => {
                let text = format!("announcing `{}`: the id stands for another process", instance.id);
                return Err(Error::new(ErrorKind::Conflict, text));
            }
            Some(_) => {}
            None => (claim.written, claim.in_maintenance) = (None, false),
        }
        self.write(claim, instance, entry).await?;
        // A check that stood before may have become critical meanwhile.
        claim.beat_at = Instant::now();
        for former in std::mem::take(&mut claim.former) {
            self.deregister(&former).await.inspect_err(|_| claim.former.push(former))?;
        }
        Ok(())
    }

    async fn hold(&self, claim: &mut Claim) -> Error {
        let Some(entry) = claim.written.clone() else { return Error::unavailable("nothing is announced") };
        let ttl = self.agent.config().ttl;
        let beat_in = ttl / 3;
        let turn = self.own_watches.try_acquire().ok();
        let mut seen = own::watch(Arc::clone(&self.agent), claim.id.clone(), turn.is_some());
        loop {
            tokio::select! {
                () = time::sleep_until(claim.beat_at) => {
                    let kept = match &entry.ttl {
                        Some(check) => self.beat(check).await,
                        None => Ok(()),
                    };
                    let kept = match kept {
                        // Without a watch of its own, or without heartbeats, a look tells what stands.
                        Ok(()) if turn.is_none() || entry.ttl.is_none() => self.verify(claim, &entry).await,
                        kept => kept.map_err(Kept::Lost),
                    };
                    match kept {
                        Ok(()) => claim.confirm(Instant::now(), jitter::around(beat_in)),
                        Err(Kept::Lost(error)) if is_away(&error) && claim.confirmed.elapsed() < ttl => {
                            claim.beat_at = Instant::now() + jitter::around(BEAT_AGAIN.min(beat_in));
                        }
                        Err(Kept::Lost(error) | Kept::Differs(error)) => return error,
                    }
                }
                seen = seen.next() => match seen {
                    Seen::Standing(standing) => {
                        if let Some(error) = judge(claim, &entry, &standing) {
                            return error;
                        }
                    }
                    Seen::Gone => return gone(&claim.id),
                    Seen::Denied(error) => return error,
                },
            }
        }
    }

    async fn update(&self, claim: &mut Claim, instance: &Instance) -> Result<(), Error> {
        let entry = Entry::of(instance, self.agent.config())?;
        settled(claim).await;
        claim.note_self(instance);
        self.write(claim, instance, entry).await
    }

    async fn release(&self, mut claim: Claim) -> Result<(), Error> {
        settled(&mut claim).await;
        for id in claim.former.iter().chain([&claim.id]) {
            self.deregister(id).await?;
        }
        Ok(())
    }
}

/// Why a look at a heartbeat ends a hold.
enum Kept {
    /// The heartbeat was refused, or nobody answered.
    Lost(Error),
    /// What stands is not what was written.
    Differs(Error),
}

impl Hub {
    /// Brings the record and the maintenance that its status asks for: out first, in last.
    async fn write(&self, claim: &mut Claim, instance: &Instance, entry: Entry) -> Result<(), Error> {
        let is_up = instance.status == Status::Up;
        if !is_up && claim.written.is_some() {
            self.enter_maintenance(claim, instance.status).await?;
        }
        self.register(claim, &entry).await?;
        let wanted = |check: &String| entry.checks.contains(check);
        let before = claim.written.as_ref().map(|before| before.checks.clone()).unwrap_or_default();
        claim.stale_checks.extend(before.into_iter().filter(|check| !wanted(check)));
        claim.stale_checks.retain(|check| !wanted(check));
        let is_first = claim.written.is_none();
        claim.written = Some(entry);
        claim.confirm(Instant::now(), jitter::around(self.agent.config().ttl / 3));
        if !is_up && is_first {
            self.enter_maintenance(claim, instance.status).await?;
            self.pass(claim).await?;
        } else if is_up && claim.in_maintenance {
            self.leave_maintenance(claim).await?;
        }
        self.drop_stale_checks(claim).await
    }

    /// Sends the registration on a task of its own and waits for it.
    async fn register(&self, claim: &mut Claim, entry: &Entry) -> Result<(), Error> {
        let (agent, body, id) = (Arc::clone(&self.agent), entry.body.clone(), claim.id.clone());
        // Not with `replace-existing-checks`: it would end an operator's maintenance.
        let sending = async move {
            let attempted = format!("registering `{id}`");
            let ask = Ask::put("/v1/agent/service/register", &attempted).json(&body);
            agent.ask(ask).await?.good(&attempted).map(drop)
        };
        // It ends with its request timeout; the claim waits for it before anything else is sent.
        let sent = claim.sent.insert(tokio::spawn(sending));
        let result = sent.await;
        claim.sent = None;
        result.unwrap_or_else(|e| Err(Error::unavailable("registering").with_source(e)))
    }

    /// The new checks of somebody who is in maintenance now need no longer keep him out.
    async fn pass(&self, claim: &Claim) -> Result<(), Error> {
        match claim.written.as_ref().and_then(|entry| entry.ttl.as_deref()) {
            Some(check) => self.beat(check).await,
            None => Ok(()),
        }
    }

    async fn beat(&self, check: &str) -> Result<(), Error> {
        let attempted = format!("telling the agent that `{check}` passes");
        let output = format!("alive; heartbeat of {}", meshwork_core::Timestamp::now());
        let path = format!("/v1/agent/check/update/{}", encoded(check));
        let ask = Ask::put(path, &attempted).json(&json!({ "Status": "passing", "Output": output }));
        let answer = self.agent.ask(ask).await?;
        let said = String::from_utf8_lossy(&answer.body);
        // An agent that was restarted without its data does not know us; older ones say so with a 500.
        if answer.status == StatusCode::NOT_FOUND
            || said.contains("Unknown check")
            || said.contains("does not have associated TTL")
        {
            return Err(Error::new(ErrorKind::Unavailable, FORGOTTEN).with_source(said.trim().to_owned()));
        }
        answer.good(&attempted).map(drop)
    }

    /// Looks at what stands, where nothing else watches it.
    async fn verify(&self, claim: &Claim, entry: &Entry) -> Result<(), Kept> {
        match own::look(&self.agent, &claim.id, None).await.map_err(Kept::Lost)? {
            Some((standing, _)) => {
                judge(claim, entry, &standing).map_or(Ok(()), |error| Err(Kept::Differs(error)))
            }
            None => Err(Kept::Differs(gone(&claim.id))),
        }
    }

    async fn enter_maintenance(&self, claim: &mut Claim, status: Status) -> Result<(), Error> {
        // Noted before it is sent: whatever happens, we know that it may be ours.
        claim.in_maintenance = true;
        let reason = format!("{OUR_REASON}{}", status.as_str());
        self.maintain(&claim.id, "true", &reason).await
    }

    async fn leave_maintenance(&self, claim: &mut Claim) -> Result<(), Error> {
        if self.is_our_maintenance(&claim.id).await? {
            self.maintain(&claim.id, "false", "").await?;
        }
        claim.in_maintenance = false;
        Ok(())
    }

    async fn maintain(&self, id: &str, enable: &str, reason: &str) -> Result<(), Error> {
        let attempted = format!("setting the maintenance of `{id}` to {enable}");
        let ask = Ask::put(format!("/v1/agent/service/maintenance/{}", encoded(id)), &attempted)
            .with("enable", enable)
            .with("reason", reason);
        self.agent.ask(ask).await?.good(&attempted).map(drop)
    }

    async fn is_our_maintenance(&self, id: &str) -> Result<bool, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Health {
            #[serde(default)]
            checks: Option<Vec<Check>>,
        }
        #[derive(Deserialize)]
        struct Check {
            #[serde(rename = "CheckID")]
            id: String,
            #[serde(rename = "Notes", default)]
            notes: String,
        }
        let attempted = format!("asking for the maintenance of `{id}`");
        let ask = Ask::get(format!("/v1/agent/health/service/id/{}", encoded(id)), &attempted);
        // Its status is that of the health: 200, 429 or 503.
        let answer = self.agent.ask(ask).await?;
        if matches!(answer.status.as_u16(), 401 | 403 | 404) {
            return answer.good(&attempted).map(|_| false);
        }
        let health: Health = answer.json(&attempted)?;
        let own = format!("_service_maintenance:{id}");
        Ok(health.checks.iter().flatten().any(|check| check.id == own && check.notes.starts_with(OUR_REASON)))
    }

    /// Ends checks that the record no longer has, for instance of an endpoint that is gone.
    async fn drop_stale_checks(&self, claim: &mut Claim) -> Result<(), Error> {
        while let Some(check) = claim.stale_checks.last() {
            let attempted = format!("ending the check `{check}`");
            let ask = Ask::put(format!("/v1/agent/check/deregister/{}", encoded(check)), &attempted);
            let answer = self.agent.ask(ask).await?;
            if answer.status != StatusCode::NOT_FOUND {
                answer.good(&attempted)?;
            }
            claim.stale_checks.pop();
        }
        Ok(())
    }

    async fn deregister(&self, id: &str) -> Result<(), Error> {
        let attempted = format!("deregistering `{id}`");
        let ask = Ask::put(format!("/v1/agent/service/deregister/{}", encoded(id)), &attempted);
        let answer = self.agent.ask(ask).await?;
        if answer.status == StatusCode::NOT_FOUND || answer.body.starts_with(b"Unknown service") {
            return Ok(());
        }
        answer.good(&attempted).map(drop)
    }
}

const FORGOTTEN: &str = "the agent does not know this instance any more";

/// Waits for a registration that is under way, so that nothing sent now is overtaken by it.
async fn settled(claim: &mut Claim) {
    if let Some(sent) = &mut claim.sent {
        let ended = time::timeout(OVERTAKEN, &mut *sent).await.is_ok();
        if !ended {
            // Its connection closes: an agent that has not read it yet never will.
            sent.abort();
        }
        claim.sent = None;
    }
}

fn judge(claim: &Claim, entry: &Entry, standing: &Standing) -> Option<Error> {
    match entry.judge(&claim.id, standing, &claim.selves) {
        Judged::Same => None,
        Judged::Differs => {
            Some(Error::unavailable(format!("record of `{}` was changed by somebody else", claim.id)))
        }
        Judged::Another => {
            let text = format!("record of `{}` stands for another process", claim.id);
            Some(Error::new(ErrorKind::Conflict, text))
        }
    }
}

fn gone(id: &str) -> Error {
    Error::unavailable(format!("record of `{id}` is gone from the agent"))
}

/// Whether nobody answered, which a heartbeat may outlast.
fn is_away(error: &Error) -> bool {
    error.kind().is_transient() && error.to_string() != FORGOTTEN
}
