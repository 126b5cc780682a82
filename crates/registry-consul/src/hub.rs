//! What one opened Consul shares: the client of its agent, and whether that agent lives.

use std::{sync::Arc, time::Duration};

use meshwork_core::{BoxFuture, Drive, Error, ErrorKind};
use tokio::{
    sync::{Semaphore, watch},
    time,
};

use crate::{
    agent::{Agent, Ask},
    errors, jitter,
    look::look,
};

/// How often the agent is asked whether it lives and still takes the token.
const PROBE: Duration = Duration::from_secs(3);
/// How many registrations watch their own record by a query of their own; further ones look at every heartbeat.
const OWN_WATCHES: usize = 16;

/// The backend that the drivers drive.
#[derive(Clone)]
pub(crate) struct Hub {
    pub(crate) agent: Arc<Agent>,
    /// The environment of the instances that are found.
    pub(crate) env: Box<str>,
    /// Told when every query under way is to be given up.
    pub(crate) cut: watch::Sender<Option<Arc<Error>>>,
    pub(crate) own_watches: Arc<Semaphore>,
}

impl Hub {
    pub(crate) fn new(agent: Arc<Agent>, env: Box<str>) -> Self {
        Self { agent, env, cut: watch::Sender::new(None), own_watches: Arc::new(Semaphore::new(OWN_WATCHES)) }
    }

    /// Whether the agent answers, and takes our token. What else it answers says nothing of that.
    async fn probe(&self) -> Result<(), Error> {
        let attempted = "asking the agent whether it lives";
        if !self.agent.tokens.any() {
            return self.agent.ask(Ask::get("/v1/status/leader", attempted)).await.map(drop);
        }
        let answer = self.agent.ask(Ask::get("/v1/acl/token/self", attempted)).await?;
        let is_off = answer.body.starts_with(b"ACL support disabled");
        match answer.good(attempted) {
            Err(error) if error.kind() == ErrorKind::Denied && !is_off => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drive for Hub {
    fn drive(&self) -> BoxFuture<'_, Error> {
        Box::pin(async {
            loop {
                time::sleep(jitter::around(PROBE)).await;
                self.agent.refresh().await;
                if let Err(error) = self.probe().await {
                    // A query that hangs with its agent would not notice before its wait is over.
                    let error = Arc::new(error);
                    self.cut.send_replace(Some(Arc::clone(&error)));
                    return errors::again("driving the Consul client", &error);
                }
                look(&self.agent).await;
            }
        })
    }
}
