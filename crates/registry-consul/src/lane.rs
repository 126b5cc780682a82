//! One blocking query that is asked again and again: a name in a datacenter.

use std::{sync::Arc, time::Duration};

use meshwork_core::{Error, ErrorKind, ServiceName};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{self, Instant};

use crate::{
    agent::{Agent, Answer, Ask, encoded},
    asked::Asked,
    config::Reads,
    cursor::{Cursor, Head, Verdict},
    durations::for_consul,
    look::FILTERED,
    pace::Pace,
    reader::{Reader, Reading},
    roll::Entry,
    rows,
    transport::Transport,
};

/// What Consul does without a rule; absent where there are no permissions at all.
const POLICY: &str = "X-Consul-Default-ACL-Policy";
/// With more services than open queries, every service is asked again within about this time.
const ROUND: Duration = Duration::from_secs(5);
const SHORTEST_TURN: Duration = Duration::from_millis(200);

/// The query of one name in one datacenter.
pub(crate) struct Lane {
    agent: Arc<Agent>,
    asked: Arc<Asked>,
    name: String,
    path: String,
    entry: Arc<Entry>,
    datacenter: Option<String>,
    attempted: String,
    cursor: Cursor,
    pace: Pace,
    reader: Reader,
    last: Option<Reading>,
}

impl Lane {
    /// `is_remote` says whether addresses of another datacenter are wanted.
    pub(crate) fn new(
        agent: Arc<Agent>,
        asked: Arc<Asked>,
        service: ServiceName,
        name: &str,
        datacenter: Option<String>,
        is_remote: bool,
    ) -> Self {
        let path = format!("/v1/health/service/{}", encoded(name));
        let entry = agent.roll.enter(path.clone(), datacenter.clone(), Arc::clone(&asked));
        let use_warning = agent.config().use_warning;
        let place = datacenter.as_deref().map(|dc| format!(" in `{dc}`")).unwrap_or_default();
        Self {
            reader: Reader::new(Arc::clone(&asked), service, name.to_owned(), is_remote, use_warning),
            name: name.to_owned(),
            path,
            entry,
            attempted: format!("watching `{name}`{place}"),
            agent,
            asked,
            datacenter,
            cursor: Cursor::default(),
            pace: Pace::new(Instant::now()),
            last: None,
        }
    }

    /// The next answer that says something new.
    pub(crate) async fn next(&mut self) -> Result<Reading, Error> {
        loop {
            time::sleep_until(self.pace.next(Instant::now())).await;
            let is_first = self.cursor.index().is_none();
            let answer = tokio::select! {
                answer = self.ask() => answer?.good(&self.attempted)?,
                () = self.entry.doubted() => {
                    self.cursor.doubt();
                    continue;
                }
            };
            if answer.header(FILTERED) == Some("true") {
                return Err(self.denied());
            }
            let head = Head::of(&answer);
            match self.cursor.answered(head, self.agent.config().max_stale) {
                Verdict::Apply => {}
                Verdict::Older => {
                    tracing::debug!(attempted = %self.attempted, "an older answer was not taken");
                    self.reader.doubt();
                    continue;
                }
                Verdict::Leaderless => {
                    let text = format!("{}: the server that answered knows no leader", self.attempted);
                    return Err(Error::unavailable(text));
                }
            }
            let policy = answer.header(POLICY);
            let rows = rows::parse(&answer.body, &self.attempted)?;
            if rows.is_empty() && is_first && policy == Some("deny") && !self.may_read().await? {
                return Err(self.denied());
            }
            let sample = rows.iter().flatten().next().map(|row| row.service.id.clone());
            let (reading, lists_less) = self.reader.read(rows);
            // The streaming backend does not say whether who is missing may no longer be read.
            if lists_less && policy.is_some() && head.is_streamed {
                self.cursor.doubt();
                continue;
            }
            self.entry.answered(sample.filter(|_| policy.is_some()));
            // A return is not a change: the output of a check may have been another one.
            if self.last.as_ref() != Some(&reading) {
                self.last = Some(reading.clone());
                return Ok(reading);
            }
        }
    }

    fn denied(&self) -> Error {
        let text = format!("{}: the token lacks `service:read` or `node:read`", self.attempted);
        Error::new(ErrorKind::Denied, text)
    }

    /// Whether we may read the service at all: to those who may not Consul says that there is nobody, and to
    /// the anonymous not even that something was left out.
    async fn may_read(&self) -> Result<bool, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Said {
            allow: bool,
        }
        let question = json!([{ "Resource": "service", "Access": "read", "Segment": self.name }]);
        let ask = Ask::post("/v1/internal/acl/authorize", &self.attempted).json(&question);
        let answer = self.agent.ask(ask.maybe("dc", self.datacenter.as_deref())).await?;
        // An agent that does not know the question is believed.
        let said: Vec<Said> = serde_json::from_slice(&answer.body).unwrap_or_default();
        Ok(said.iter().all(|said| said.allow))
    }

    /// Forgets where it stood: the next answer is told whatever it says.
    pub(crate) fn start_over(&mut self) {
        self.cursor = Cursor::default();
        self.reader.doubt();
        self.last = None;
    }

    async fn ask(&self) -> Result<Answer, Error> {
        let asked = &self.asked;
        let mut ask = Ask::get(self.path.clone(), &self.attempted)
            .maybe("dc", self.datacenter.as_deref())
            .maybe("near", asked.near.as_deref())
            .maybe("ns", asked.namespace.as_deref())
            .maybe("partition", asked.partition.as_deref());
        for tag in &asked.tags {
            ask = ask.with("tag", tag.as_str());
        }
        if asked.passing {
            ask = ask.with("passing", "");
        }
        let Some(index) = self.cursor.index() else {
            // The first answer is the leader's; after an older one it is a confirmed one.
            let confirmed = asked.reads == Reads::Consistent || self.cursor.is_confirming();
            let ask = if confirmed { ask.with("consistent", "") } else { ask };
            return self.agent.ask(ask).await;
        };
        let transport = self.agent.transport().await?;
        let turn = transport.turn().await;
        let wait = self.turn_length(&transport);
        ask = match asked.reads {
            Reads::Default => ask,
            Reads::Stale => ask.with("stale", ""),
            Reads::Consistent => ask.with("consistent", ""),
        };
        // The server adds up to a sixteenth, so that not all queries return at once.
        let limit = wait + wait / 16 + self.agent.config().request_timeout;
        let ask = ask.with("index", index.to_string()).with("wait", for_consul(wait)).within(limit);
        self.agent.ask_in_turn(ask, &turn).await
    }

    /// How long a query may stay open: shorter when more services want a turn than there are.
    fn turn_length(&self, transport: &Transport) -> Duration {
        let (lanes, capacity) = (self.agent.roll.len(), transport.capacity());
        let wait = self.agent.config().wait;
        if lanes <= capacity {
            return wait;
        }
        ROUND.mul_f64(capacity as f64 / lanes as f64).max(SHORTEST_TURN).min(wait)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.agent.roll.strike(&self.entry);
    }
}
