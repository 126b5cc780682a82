//! The names of all services, by one blocking query while anybody watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use meshwork_core::{Error, ErrorKind, ServiceName};
use meshwork_registry::catalog::{CatalogWriter, SharedCatalog};
use serde_json::Value;
use tokio::time::{self, Instant};

use crate::{
    agent::{Agent, Ask},
    cursor::{Cursor, Head, Verdict},
    durations::for_consul,
    entry::EXACT_NAME,
    jitter,
    look::FILTERED,
    pace::Pace,
};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const ATTEMPTED: &str = "listing services";

/// Lists the services of the agent's datacenter: exact names where Meshwork processes registered them,
/// and whatever other names are names of services for us too.
pub(crate) fn services(agent: Arc<Agent>) -> SharedCatalog {
    SharedCatalog::new("consul catalog", move |writer| follow(Arc::clone(&agent), writer))
}

async fn follow(agent: Arc<Agent>, writer: CatalogWriter) {
    let (mut cursor, mut pace, mut pause) = (Cursor::default(), Pace::new(Instant::now()), FIRST_PAUSE);
    loop {
        time::sleep_until(pace.next(Instant::now())).await;
        match next(&agent, &mut cursor).await {
            Ok(names) => {
                pause = FIRST_PAUSE;
                if let Some(names) = names {
                    writer.read(names);
                }
            }
            Err(error) => {
                cursor = Cursor::default();
                let slow = !error.kind().is_transient();
                writer.failed(Arc::new(error));
                pause = if slow { Duration::from_secs(60) } else { (pause * 2).min(LONGEST_PAUSE) };
                time::sleep(jitter::around(pause)).await;
            }
        }
    }
}

/// The names, or nothing when an older answer was not taken.
async fn next(agent: &Agent, cursor: &mut Cursor) -> Result<Option<BTreeSet<ServiceName>>, Error> {
    let path = "/v1/catalog/services";
    let answer = match cursor.index() {
        None => agent.ask(Ask::get(path, ATTEMPTED)).await?,
        Some(index) => {
            let wait = agent.config().wait;
            let limit = wait + wait / 16 + agent.config().request_timeout;
            let ask = Ask::get(path, ATTEMPTED).with("index", index.to_string());
            let turn = agent.transport().await?.turn().await;
            agent.ask_in_turn(ask.with("wait", for_consul(wait)).within(limit), &turn).await?
        }
    };
    let answer = answer.good(ATTEMPTED)?;
    match cursor.answered(Head::of(&answer), agent.config().max_stale) {
        Verdict::Older => return Ok(None),
        Verdict::Leaderless => return Err(Error::unavailable(format!("{ATTEMPTED}: there is no leader"))),
        Verdict::Apply => {}
    }
    let all: BTreeMap<String, Value> = answer.json(ATTEMPTED)?;
    let names = names(&all);
    if names.is_empty() && answer.header(FILTERED) == Some("true") {
        return Err(Error::new(ErrorKind::Denied, format!("{ATTEMPTED}: the token may read none")));
    }
    Ok(Some(names))
}

/// The names of an answer; tags of a wrong shape count as none.
fn names(all: &BTreeMap<String, Value>) -> BTreeSet<ServiceName> {
    let mut names = BTreeSet::new();
    for (name, tags) in all {
        let tags = tags.as_array().into_iter().flatten().filter_map(Value::as_str);
        let exact = tags.filter_map(|tag| tag.strip_prefix(EXACT_NAME));
        let exact: Vec<ServiceName> = exact.filter_map(|name| ServiceName::new(name).ok()).collect();
        if exact.is_empty() {
            names.extend(ServiceName::new(name));
        }
        names.extend(exact);
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_names_stand_for_mapped_ones_and_odd_ones_spoil_nothing() {
        let answer =
            r#"{"consul":[],"users-v1":["x",7,"meshwork-service=users.v1"],"a/b":null,"db":{"no":"list"}}"#;
        let names = names(&serde_json::from_str(answer).unwrap());
        let names: Vec<&str> = names.iter().map(ServiceName::as_str).collect();
        assert_eq!(names, ["consul", "db", "users.v1"]);
    }
}
