//! Watches our own record at the agent: a query that returns when the record changes or goes.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use meshwork_core::{BoxFuture, Error, ErrorKind};
use serde::Deserialize;
use tokio::time;

use crate::{
    agent::{Agent, Ask, encoded},
    durations::for_consul,
    entry::Standing,
    jitter,
};

/// How long one look waits for a change.
const WAIT: Duration = Duration::from_secs(60);
/// Between two looks while the agent does not answer: the heartbeats judge that.
const PAUSE: Duration = Duration::from_secs(1);

/// What a watch has seen.
pub(crate) enum Seen {
    /// What stands, now or after a change.
    Standing(Standing),
    /// Nothing stands.
    Gone,
    /// We may not look.
    Denied(Error),
}

/// A watch of one record.
pub(crate) struct Own {
    agent: Arc<Agent>,
    id: String,
    hash: Option<String>,
    is_on: bool,
    look: Option<BoxFuture<'static, Look>>,
}

type Look = Result<Option<(Standing, String)>, Error>;

/// Watches the record `id`; one that is not on never sees anything.
pub(crate) fn watch(agent: Arc<Agent>, id: String, is_on: bool) -> Own {
    Own { agent, id, hash: None, is_on, look: None }
}

impl Own {
    /// The next thing that it sees.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the look under way stays.
    pub(crate) async fn next(&mut self) -> Seen {
        if !self.is_on {
            return std::future::pending().await;
        }
        loop {
            let (agent, id, hash) = (&self.agent, &self.id, &self.hash);
            let look = self.look.get_or_insert_with(|| {
                let (agent, id, hash) = (Arc::clone(agent), id.clone(), hash.clone());
                Box::pin(async move {
                    let seen = look(&agent, &id, hash.as_deref()).await;
                    if seen.as_ref().is_err_and(|error| error.kind() != ErrorKind::Denied) {
                        time::sleep(jitter::around(PAUSE)).await;
                    }
                    seen
                })
            });
            let seen = look.await;
            self.look = None;
            match seen {
                Ok(Some((standing, hash))) => {
                    self.hash = Some(hash);
                    return Seen::Standing(standing);
                }
                Ok(None) => return Seen::Gone,
                Err(error) if error.kind() == ErrorKind::Denied => return Seen::Denied(error),
                Err(error) => {
                    self.hash = None;
                    tracing::trace!(error = %meshwork_core::ErrorChain(&error), "own record cannot be looked at");
                }
            }
        }
    }
}

/// What stands under `id`, with the hash to wait beyond; with a hash, once it is another.
pub(crate) async fn look(agent: &Agent, id: &str, hash: Option<&str>) -> Look {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Hashed {
        content_hash: String,
    }
    let attempted = format!("looking at `{id}`");
    let mut ask = Ask::get(format!("/v1/agent/service/{}", encoded(id)), &attempted);
    if let Some(hash) = hash {
        let limit = WAIT + WAIT / 16 + agent.config().request_timeout;
        ask = ask.with("hash", hash).with("wait", for_consul(WAIT)).within(limit);
    }
    let answer = agent.ask(ask).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    let answer = answer.good(&attempted)?;
    let hashed: Hashed = answer.json(&attempted)?;
    Ok(Some((answer.json(&attempted)?, hashed.content_hash)))
}
