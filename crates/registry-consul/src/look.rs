//! Asks about lanes that were silent for long, whether they may still be read.

use futures_util::future;
use meshwork_core::ErrorKind;
use tokio::time::Instant;

use crate::{
    agent::{Agent, Ask},
    roll::Entry,
};

/// Consul says that it left things out for want of permissions.
pub(crate) const FILTERED: &str = "X-Consul-Results-Filtered-By-ACLs";

/// Asks about those lanes of this agent that were silent for longest; tells those that seem to be refused.
///
/// # Cancel safety
/// Dropping the future leaves some lanes unasked until their next turn.
pub(crate) async fn look(agent: &Agent) {
    loop {
        let silent = agent.roll.silent(Instant::now());
        let looks = silent.iter().map(|(entry, sample)| is_refused(agent, entry, sample));
        let refused = future::join_all(looks).await;
        for ((entry, _), _) in silent.iter().zip(&refused).filter(|(_, refused)| **refused) {
            entry.doubt();
        }
        if !refused.contains(&true) {
            return;
        }
    }
}

/// Whether the servers hide `sample` from us.
async fn is_refused(agent: &Agent, entry: &Entry, sample: &str) -> bool {
    // The filter keeps the answer small, whatever the service has.
    let filter = format!("Service.ID == {}", serde_json::Value::from(sample));
    let ask = Ask::get(entry.path(), "asking whether a service may be read")
        .maybe("dc", entry.datacenter())
        .maybe("ns", entry.asked().namespace.as_deref())
        .maybe("partition", entry.asked().partition.as_deref())
        .with("stale", "")
        .with("filter", filter);
    match agent.ask(ask).await {
        Ok(answer) if answer.header(FILTERED) == Some("true") => true,
        Ok(answer) => answer.good("").is_err_and(|error| error.kind() == ErrorKind::Denied),
        // Whether the agent is there at all is not the question here.
        Err(_) => false,
    }
}
