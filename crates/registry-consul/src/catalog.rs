//! The names of all services, by one blocking query while anybody watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use meshwork_core::{Catalog, Error, ErrorKind, Publisher, ServiceName, Staleness, Task, Watch};
use serde_json::Value;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{Agent, Ask},
    cursor::{Cursor, Head, Verdict},
    durations::for_consul,
    entry::EXACT_NAME,
    jitter,
    pace::Pace,
    roll::FILTERED,
};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const ATTEMPTED: &str = "listing services";

/// Lists the services of the agent's datacenter: exact names where Meshwork processes registered them,
/// and whatever other names are names of services for us too.
pub(crate) struct Services {
    agent: Arc<Agent>,
    topic: Mutex<Weak<Topic>>,
}

struct Topic {
    publisher: Arc<Publisher<BTreeSet<ServiceName>>>,
    task: Task,
}

impl Services {
    pub(crate) fn new(agent: Arc<Agent>) -> Self {
        Self { agent, topic: Mutex::default() }
    }
}

impl Catalog for Services {
    fn services(&self) -> Watch<BTreeSet<ServiceName>> {
        let mut kept = self.topic.lock().unwrap_or_else(PoisonError::into_inner);
        let topic = kept.upgrade().filter(|topic| !topic.task.is_finished()).unwrap_or_else(|| {
            let publisher = Arc::new(Publisher::new(Arc::default()));
            let work = follow(Arc::clone(&self.agent), Arc::clone(&publisher));
            let task = Task::new("consul catalog", CancellationToken::new(), tokio::spawn(work));
            let topic = Arc::new(Topic { publisher, task });
            *kept = Arc::downgrade(&topic);
            topic
        });
        topic.publisher.watch().holding(topic)
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Services").finish_non_exhaustive()
    }
}

async fn follow(agent: Arc<Agent>, publisher: Arc<Publisher<BTreeSet<ServiceName>>>) {
    let (mut cursor, mut pace, mut pause) = (Cursor::default(), Pace::new(Instant::now()), FIRST_PAUSE);
    loop {
        time::sleep_until(pace.next(Instant::now())).await;
        match next(&agent, &mut cursor).await {
            Ok(names) => {
                pause = FIRST_PAUSE;
                let latest = publisher.latest();
                if let Some(names) = names
                    && !(latest.staleness().is_fresh() && **latest.value() == names)
                {
                    publisher.publish(Staleness::Fresh, Arc::new(names), Arc::new([]));
                }
            }
            Err(error) => {
                cursor = Cursor::default();
                let slow = !error.kind().is_transient();
                let cause = Arc::new(error);
                publisher.restate(match publisher.latest().staleness() {
                    Staleness::Pending { .. } => Staleness::Pending { cause: Some(cause) },
                    Staleness::Stale { since, age, .. } => {
                        Staleness::Stale { since: *since, age: *age, cause }
                    }
                    _ => Staleness::Stale { since: Instant::now(), age: Duration::ZERO, cause },
                });
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
