//! Scenario 19: a provider that dies, a token that may no longer read, servers that are behind or have no leader.

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use meshwork_core::ErrorKind;
use meshwork_testkit::{
    consul::{Agent, Consul, Meddler},
    load::Load,
    truth::eventually,
};
use meshwork_tests::{
    Result, SERVICE,
    judge::{Judge, Length},
    residue::Residue,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    caller::{Caller, nothing_left},
    consul_fleet::ConsulFleet,
};

const RATE: f64 = 200.0;
/// Of the provider that dies.
const TTL: Duration = Duration::from_secs(3);
/// Of those that live on; no server is away for longer.
const PATIENT: Duration = Duration::from_secs(60);
const HEARD: Duration = Duration::from_secs(20);
/// When a caller must say that it may no longer read.
const ALARM: Duration = Duration::from_secs(5);
/// When a view must be fresh again: elections, joins, and a back-off.
const HEALED: Duration = Duration::from_secs(15);
/// How often a view is looked at for instances that vanish.
const LOOK: Duration = Duration::from_millis(2);
/// More changes than a leader sends to a server that does not answer.
const UNREAD: usize = 200;
const WRITES: &str = r#"service_prefix "" { policy = "write" } node_prefix "" { policy = "read" }"#;
const READS: &str = r#"service_prefix "" { policy = "read" } node_prefix "" { policy = "read" }"#;
const READS_NO_SERVICE: &str = r#"node_prefix "" { policy = "read" }"#;

struct Stage<'a> {
    fleet: ConsulFleet,
    meddler: Meddler,
    caller: Caller,
    length: Length,
    judge: &'a mut Judge,
}

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let mut fleet = ConsulFleet::start(actor, Consul::servers(3).acl()).await?;
    fleet.token = Some(token(&fleet.consul, "providers", WRITES).await?);
    let reader = token(&fleet.consul, "reader", READS).await?;
    let hidden = token(&fleet.consul, "hidden", READS).await?;
    // The agent of all providers is the one that goes through everything unhurt.
    let [near, ..] = followers(&fleet.consul).await?;
    let (url, addr) = (fleet.consul.agents()[near].url(), fleet.consul.agents()[near].addr());
    for _ in 0..2 {
        fleet.provide(&url, PATIENT).await?;
    }
    let meddler = Meddler::start(addr).await?;
    let before = Residue::now();
    let caller = Caller::over(&registry(&meddler.url(), &reader), "1s");
    let call = caller.clone();
    let load = Load::rate(RATE).lasting(Duration::MAX).start(move |_| call.clone().idempotent());
    let mut stage = Stage { fleet, meddler, caller, length, judge };
    stage.caller.heard_of(&stage.fleet.pids(), HEARD).await?;
    stage.critical(&url).await?;
    stage.behind(near).await?;
    stage.leaderless(near).await?;
    stage.denied(&url, &hidden).await?;
    load.stop();
    let report = load.report().await;
    let Stage { fleet, meddler, caller, judge, .. } = stage;
    judge.told("calls", report.calls().len());
    judge.count("failed", report.failed(), 0);
    judge.told("p99", format_args!("{:.1} ms", report.p99().as_secs_f64() * 1e3));
    if let Some(failure) = report.calls().iter().find_map(Caller::failure) {
        judge.note(&format!("first failure: {failure}"));
    }
    judge.succeeds("view equals truth", caller.view_is(&fleet.living(), length.allows(TTL)).await);
    judge.succeeds("catalog equals truth", fleet.truth(length.allows(TTL)).await);
    caller.end().await;
    judge.succeeds("providers stop", fleet.stop().await);
    judge.succeeds("no record is left", fleet.truth(length.allows(TTL)).await);
    judge.succeeds("nothing leaked", nothing_left(before).await);
    drop(meddler);
    Ok(())
}

impl Stage<'_> {
    /// A provider dies, and so its check becomes critical.
    async fn critical(&mut self, url: &str) -> Result<()> {
        let victim = self.fleet.provide(url, TTL).await?;
        self.caller.heard_of(&self.fleet.pids(), HEARD).await?;
        let killed = Instant::now();
        self.fleet.providers[victim].kill9().await?;
        let left = self.caller.view_is(&self.fleet.living(), TTL * 4).await;
        self.judge.succeeds("a dead one leaves the view", left);
        self.judge.time("left the view after", killed.elapsed(), TTL + Duration::from_secs(1));
        // Else its record would stand as critical until its agent removes it.
        let path = format!("/v1/agent/service/deregister/{}", self.fleet.providers[victim].id());
        let mut agents = self.fleet.consul.agents().iter();
        let agent = agents.find(|agent| agent.url() == url).ok_or("there is no such agent")?;
        agent.must("PUT", &path, "").await?;
        Ok(())
    }

    /// The caller comes to a server that was frozen while somebody new was registered, and cannot catch up.
    async fn behind(&mut self, near: usize) -> Result<()> {
        let consul = Arc::clone(&self.fleet.consul);
        let leader = place(&consul, consul.leader().await?.name())?;
        let late = (0..3).find(|n| *n != near && *n != leader).ok_or("there is no third server")?;
        let agent = |place: usize| &consul.agents()[place];
        agent(late).freeze().await?;
        // Some of what the leader sends waits in its sockets; what comes after that does not.
        for n in 0..UNREAD {
            agent(near).must("PUT", &format!("/v1/kv/{n}"), "x").await?;
        }
        let newcomer = self.fleet.provide(&agent(near).url(), PATIENT).await?;
        let id = self.fleet.providers[newcomer].id().to_owned();
        let ids = self.fleet.living();
        self.judge.succeeds("a newcomer is seen", self.caller.view_is(&ids, HEARD).await);
        let eye = Eye::open(&self.caller, &ids);
        let older = Arc::new(AtomicUsize::new(0));
        let answers = Arc::clone(&older);
        self.meddler.meddle(move |exchange| {
            let is_list = is_list(&exchange.path) && exchange.status == 200;
            if is_list && !String::from_utf8_lossy(&exchange.body).contains(&id) {
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
        self.meddler.redirect(agent(late).addr());
        // The next question waits there already when the others go; a change makes it come at once.
        let before = self.meddler.asked().len();
        let nudge = json!({ "Node": "nudge", "Address": "127.0.0.1",
            "Service": { "ID": "nudge", "Service": SERVICE, "Address": "127.0.0.1", "Port": 1_000 },
            "Check": { "CheckID": "nudge", "Name": "nudge", "Status": "critical", "ServiceID": "nudge" } });
        agent(near).must("PUT", "/v1/catalog/register", &nudge.to_string()).await?;
        let asked = || async { self.meddler.asked()[before..].iter().any(|path| is_list(path)) };
        eventually(HEARD, "the server that is behind is asked", asked).await?;
        agent(near).freeze().await?;
        agent(leader).freeze().await?;
        agent(late).thaw();
        let answered = || async { older.load(Ordering::Relaxed) > 0 };
        let was_behind = eventually(HEALED, "the server that is behind answers", answered).await;
        self.judge.succeeds("a server is behind", was_behind);
        sleep(Duration::from_secs(self.length.pick(1, 3, 10))).await;
        agent(near).thaw();
        agent(leader).thaw();
        self.is_fresh("after a server was behind").await;
        self.meddler.behave();
        self.meddler.redirect(agent(near).addr());
        agent(near).must("PUT", "/v1/catalog/deregister", r#"{"Node":"nudge"}"#).await?;
        self.judge.told("older answers", older.load(Ordering::Relaxed));
        self.judge.count("older views", eye.close().await, 0);
        let stopped = self.fleet.providers[newcomer].stop(HEARD).await?;
        self.judge.holds("a newcomer stops", stopped.code == 0);
        let left = self.caller.view_is(&self.fleet.living(), HEALED).await;
        self.judge.succeeds("a newcomer leaves the view", left);
        Ok(())
    }

    /// The caller's server loses both others.
    async fn leaderless(&mut self, near: usize) -> Result<()> {
        let consul = Arc::clone(&self.fleet.consul);
        let others: Vec<&Agent> =
            consul.agents().iter().enumerate().filter(|(n, _)| *n != near).map(|(_, agent)| agent).collect();
        let eye = Eye::open(&self.caller, &self.fleet.living());
        for other in &others {
            other.freeze().await?;
        }
        let stale = || async { !self.caller.channel().cluster_view().staleness.is_fresh() };
        let noticed = eventually(HEALED, "a server without a leader is noticed", stale).await;
        self.judge.succeeds("leaderless", noticed);
        sleep(Duration::from_secs(self.length.pick(1, 5, 20))).await;
        for other in &others {
            other.thaw();
        }
        self.is_fresh("after a server had no leader").await;
        self.judge.count("older views from a server without a leader", eye.close().await, 0);
        Ok(())
    }

    /// Another caller's token may no longer read.
    async fn denied(&mut self, url: &str, token: &str) -> Result<()> {
        let consul = Arc::clone(&self.fleet.consul);
        let caller = Caller::over(&registry(url, token), "1s");
        caller.clone().idempotent().await.map_err(|failure| failure.to_string())?;
        let ids = self.fleet.living();
        caller.view_is(&ids, HEARD).await?;
        // Not in the moment in which it asks anyway.
        sleep(Duration::from_secs(1)).await;
        let eye = Eye::open(&caller, &ids);
        let leader = consul.leader().await?;
        let policy: Value =
            serde_json::from_str(&leader.must("GET", "/v1/acl/policy/name/hidden", "").await?)?;
        let id = policy["ID"].as_str().ok_or("a policy without an id")?;
        let edited = json!({ "Name": "hidden", "Rules": READS_NO_SERVICE }).to_string();
        leader.must("PUT", &format!("/v1/acl/policy/{id}"), &edited).await?;
        let begun = Instant::now();
        let is_told = || async {
            let view = caller.channel().cluster_view();
            view.staleness.cause().is_some_and(|cause| cause.kind() == ErrorKind::Denied)
        };
        let told = eventually(ALARM * 8, "the caller says that it is denied", is_told).await;
        self.judge.succeeds("alarm", told);
        self.judge.time("alarm after", begun.elapsed(), ALARM);
        let call = caller.clone();
        let lasting = Duration::from_secs(self.length.pick(1, 5, 40));
        let report =
            Load::rate(RATE / 4.0).lasting(lasting).start(move |_| call.clone().plain()).report().await;
        self.judge.count("failed while denied", report.failed(), 0);
        self.judge.count("views without the list while denied", eye.close().await, 0);
        caller.end().await;
        Ok(())
    }

    async fn is_fresh(&mut self, when: &str) {
        let begun = Instant::now();
        let fresh = || async { self.caller.channel().cluster_view().staleness.is_fresh() };
        let healed = eventually(HEALED * 4, "the view is fresh", fresh).await;
        self.judge.succeeds(when, healed);
        self.judge.time(&format!("fresh {when}"), begun.elapsed(), HEALED);
    }
}

/// Looks all the time whether a view lost somebody who lives.
struct Eye {
    lost: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Eye {
    fn open(caller: &Caller, ids: &BTreeSet<String>) -> Self {
        let lost = Arc::new(AtomicUsize::new(0));
        let (seen, caller, ids) = (Arc::clone(&lost), caller.clone(), ids.clone());
        let task = tokio::spawn(async move {
            loop {
                let nodes = caller.channel().nodes();
                let now: BTreeSet<&str> = nodes.iter().map(|node| node.instance.id.as_str()).collect();
                if !ids.iter().all(|id| now.contains(&**id)) {
                    seen.fetch_add(1, Ordering::Relaxed);
                }
                sleep(LOOK).await;
            }
        });
        Self { lost, task }
    }

    /// How often somebody was missing.
    async fn close(self) -> usize {
        self.task.abort();
        let _ = self.task.await;
        self.lost.load(Ordering::Relaxed)
    }
}

fn is_list(path: &str) -> bool {
    path.starts_with("/v1/health/service/") && !path.contains("filter=")
}

fn registry(url: &str, token: &str) -> String {
    format!(
        "use = \"consul\"\n[registry.consul]\naddress = {url:?}\ntoken = {token:?}\nreads = \"stale\"\n\
         wait = \"2s\"\n"
    )
}

/// A token that every server knows.
async fn token(consul: &Consul, name: &str, rules: &str) -> Result<String> {
    let (_, secret) = consul.make_token(name, rules).await?;
    for agent in consul.agents() {
        let knows = || async {
            let asked = agent.ask_as(Some(&secret), "GET", "/v1/acl/token/self?stale", "").await;
            asked.is_ok_and(|(status, _)| status == 200)
        };
        eventually(HEARD, "every server knows the token", knows).await?;
    }
    Ok(secret)
}

/// The places of the servers that do not lead.
async fn followers(consul: &Consul) -> Result<[usize; 2]> {
    let leader = place(consul, consul.leader().await?.name())?;
    match (0..3).filter(|n| *n != leader).collect::<Vec<_>>()[..] {
        [a, b] => Ok([a, b]),
        _ => Err("there are not three servers".into()),
    }
}

fn place(consul: &Consul, name: &str) -> Result<usize> {
    let place = consul.agents().iter().position(|agent| agent.name() == name);
    place.ok_or_else(|| format!("there is no agent `{name}`").into())
}
