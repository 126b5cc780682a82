//! Scenario 18: Consul agents that restart with and without their data, lie about their index, hang, and change
//! all the time, under load.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use meshwork_testkit::{
    consul::{Agent, Consul, Fate, Meddler},
    load::Load,
    truth::eventually,
};
use meshwork_tests::{
    Result, SERVICE,
    judge::{Judge, Length},
    residue::Residue,
};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use crate::{
    caller::{Caller, nothing_left},
    consul_fleet::ConsulFleet,
    roles,
};

const RATE: f64 = 200.0;
const TTL: Duration = Duration::from_secs(6);
/// When an instance must be known again to an agent that is back.
const AGAIN: Duration = Duration::from_secs(10);
const HEARD: Duration = Duration::from_secs(20);
/// The questions about a service that agents are asked at most, steadily, in a second.
const STEADY: f64 = 2.0;
/// After this the questions that a calm allows at once are used up.
const BURST: Duration = Duration::from_secs(2);
/// So many change so many instances at once, so often: 1 142 changes/s, and 285 wake-ups.
const CHANGERS: usize = 8;
const AT_ONCE: usize = 4;
const CHANGE_EVERY: Duration = Duration::from_millis(28);
const CHANGES: f64 = 1_000.0;
/// The agent removes what was critical for a minute, and looks every 30 s.
const REAPED: Duration = Duration::from_secs(60 + 30);

struct Stage<'a> {
    fleet: ConsulFleet,
    meddler: Meddler,
    caller: Caller,
    length: Length,
    judge: &'a mut Judge,
}

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let plan = Consul::with_client_agent();
    let is_short = length == Length::Short;
    let mut fleet = ConsulFleet::start(actor, if is_short { plan } else { plan.tls() }).await?;
    roles::seen(&fleet.consul, length.pick(12, 100, 400), judge).await?;
    if !is_short {
        let lasting = Duration::from_secs(length.pick(5, 10, 30));
        roles::costs(&fleet.consul.url(), &[], 1_000, lasting, judge).await?;
        let url = fleet.consul.local().https_url().ok_or("there is no TLS")?;
        let (ca, (cert, key)) = (fleet.consul.ca_file(), fleet.consul.client_certificate());
        roles::costs(&url, &[&ca, &cert, &key], 1_000, lasting, judge).await?;
    }

    let (near, far) = (fleet.consul.local().url(), fleet.consul.first().url());
    for url in [&near, &near, &far] {
        fleet.provide(url, TTL).await?;
    }
    let meddler = Meddler::start(fleet.consul.local().addr()).await?;
    let before = Residue::now();
    let wait = length.pick("2s", "5s", "30s");
    let registry = format!(
        "use = \"consul\"\n[registry.consul]\naddress = {:?}\nwait = {wait:?}\nrequest_timeout = \"1s\"\n",
        meddler.url()
    );
    let caller = Caller::over(&registry, "1s");
    let call = caller.clone();
    let load = Load::rate(RATE).lasting(Duration::MAX).start(move |_| call.clone().plain());
    let mut stage = Stage { fleet, meddler, caller, length, judge };
    stage.caller.heard_of(&stage.fleet.pids(), HEARD).await?;
    stage.restarts().await?;
    stage.lies().await?;
    stage.storm().await?;
    stage.hangs().await?;
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
    if length == Length::Long {
        reaped(&fleet, &caller, judge).await?;
    }
    caller.end().await;
    judge.succeeds("providers stop", fleet.stop().await);
    judge.succeeds("no record is left", fleet.truth(length.allows(TTL)).await);
    judge.succeeds("nothing leaked", nothing_left(before).await);
    drop(meddler);
    Ok(())
}

impl Stage<'_> {
    /// The agent of two providers and of the caller is killed, and comes back.
    async fn restarts(&mut self) -> Result<()> {
        for wiped in [false, true] {
            let agent = self.fleet.consul.local();
            agent.kill9().await?;
            sleep(Duration::from_secs(self.length.pick(1, 3, 10))).await;
            if wiped {
                agent.wipe()?;
            }
            // Its own start counts too.
            agent.start()?;
            let back = Instant::now();
            let known = self.fleet.providers[..2].iter().map(|provider| provider.id().to_owned());
            let known: Vec<String> = known.collect();
            let outcome = eventually(AGAIN * 4, "both stand at the agent and pass", || async {
                let mut stand = true;
                for id in &known {
                    let path = format!("/v1/agent/health/service/id/{id}");
                    stand &= agent.ask("GET", &path, "").await.is_ok_and(|(status, _)| status == 200);
                }
                stand
            })
            .await;
            let with = if wiped { "without" } else { "with" };
            self.judge.succeeds(&format!("registered again {with} its data"), outcome);
            self.judge.time(&format!("registered again {with} its data"), back.elapsed(), AGAIN);
            self.judge.succeeds("catalog after a restart", self.fleet.truth(AGAIN * 2).await);
            let ids = self.fleet.living();
            self.judge.succeeds("view after a restart", self.caller.view_is(&ids, AGAIN * 2).await);
        }
        Ok(())
    }

    /// The index runs 100 → 50 → 0; afterwards changes are seen again.
    async fn lies(&mut self) -> Result<()> {
        let answers = AtomicUsize::new(0);
        self.meddler.meddle(move |exchange| {
            if is_asked(&exchange.path) {
                let index = [100, 50, 0][answers.fetch_add(1, Relaxed) % 3];
                exchange.set_header("x-consul-index", index.to_string());
            }
        });
        self.steadily("index 100 → 50 → 0", Duration::from_secs(self.length.pick(2, 10, 60))).await;
        self.meddler.behave();
        let url = self.fleet.consul.first().url();
        self.fleet.provide(&url, TTL).await?;
        let (ids, limit) = (self.fleet.living(), self.length.allows(Duration::from_secs(5)));
        self.judge
            .succeeds("a newcomer after the index went backwards", self.caller.view_is(&ids, limit).await);
        Ok(())
    }

    /// The service changes all the time.
    async fn storm(&mut self) -> Result<()> {
        let (stop, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        enter(self.fleet.consul.first()).await?;
        let mut changers = JoinSet::new();
        for n in 0..CHANGERS {
            let (consul, stop, changes) =
                (Arc::clone(&self.fleet.consul), Arc::clone(&stop), Arc::clone(&changes));
            changers.spawn(async move { change(consul.first(), n * AT_ONCE, &stop, &changes).await });
        }
        sleep(BURST).await;
        let (begun, asked, changed) = (Instant::now(), count(&self.meddler), changes.load(Relaxed));
        sleep(Duration::from_secs(self.length.pick(3, 10, 60))).await;
        let seconds = begun.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        let per_second = (changes.load(Relaxed) - changed) as f64 / seconds;
        let asked = count(&self.meddler) - asked;
        judge_rate(self.judge, self.length, &format!("{per_second:.0} changes/s"), asked, seconds);
        if per_second < CHANGES {
            self.judge.skipped("1 000 changes/s", "this machine makes fewer");
        }
        while let Some(outcome) = changers.join_next().await {
            outcome??;
        }
        let server = self.fleet.consul.first();
        server.must("PUT", "/v1/catalog/deregister", r#"{"Node":"storm"}"#).await?;
        let ids = self.fleet.living();
        self.judge.succeeds("view after the storm", self.caller.view_is(&ids, AGAIN).await);
        Ok(())
    }

    /// Answers hang, once before their head and once before their body.
    async fn hangs(&mut self) -> Result<()> {
        let fates = [Fate::Withheld, Fate::Headed];
        for fate in fates.into_iter().take(self.length.pick(1, 2, 2)) {
            self.meddler.meddle(move |exchange| {
                if is_asked(&exchange.path) {
                    exchange.fate = fate;
                }
            });
            let stale = || async { !self.caller.channel().cluster_view().staleness.is_fresh() };
            let noticed = eventually(Duration::from_secs(60), "answers that hang are given up", stale).await;
            self.judge.succeeds("answers that hang are noticed", noticed);
            sleep(Duration::from_secs(self.length.pick(1, 5, 30))).await;
            let ids = self.fleet.living();
            self.judge.succeeds("view while answers hang", self.caller.view_is(&ids, Duration::ZERO).await);
            self.meddler.behave();
            let fresh = || async { self.caller.channel().cluster_view().staleness.is_fresh() };
            let healed = eventually(AGAIN * 4, "the view is fresh", fresh).await;
            self.judge.succeeds("view after answers hung", healed);
        }
        Ok(())
    }

    async fn steadily(&mut self, what: &str, lasting: Duration) {
        sleep(BURST).await;
        let (begun, before) = (Instant::now(), count(&self.meddler));
        sleep(lasting).await;
        let (asked, seconds) = (count(&self.meddler) - before, begun.elapsed().as_secs_f64());
        judge_rate(self.judge, self.length, what, asked, seconds);
    }
}

fn is_asked(path: &str) -> bool {
    path.starts_with(&format!("/v1/health/service/{SERVICE}"))
}

fn count(meddler: &Meddler) -> usize {
    meddler.count(&format!("/v1/health/service/{SERVICE}"))
}

/// A process that stood still for a moment may ask a few times at once; seconds are too short to even that out.
fn judge_rate(judge: &mut Judge, length: Length, what: &str, asked: usize, seconds: f64) {
    judge.told(what, format_args!("{:.2} requests/s", asked as f64 / seconds));
    let most = STEADY * seconds + length.pick(3.0, 0.0, 0.0);
    judge.holds(&format!("{what}: {asked} requests in {seconds:.1} s"), asked as f64 <= most);
}

fn stranger(n: usize, round: u64) -> Value {
    json!({ "ID": format!("storm-{n}"), "Service": SERVICE, "Address": "127.0.0.1", "Port": 1_000 + n,
        "Meta": { "round": round.to_string() } })
}

/// Enters instances into the catalog that are critical, and so never called.
async fn enter(server: &Agent) -> Result<()> {
    for n in 0..CHANGERS * AT_ONCE {
        let id = format!("storm-{n}");
        let entry = json!({ "Node": "storm", "Address": "127.0.0.1", "Service": stranger(n, 0),
            "Check": { "CheckID": id, "Name": "storm", "Status": "critical", "ServiceID": id } });
        server.must("PUT", "/v1/catalog/register", &entry.to_string()).await?;
    }
    Ok(())
}

/// Rewrites some of them again and again.
async fn change(server: &Agent, first: usize, stop: &AtomicBool, changes: &AtomicUsize) -> Result<()> {
    let mut beats = interval(CHANGE_EVERY);
    beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for round in 1.. {
        beats.tick().await;
        if stop.load(Relaxed) {
            break;
        }
        let set = |n| json!({ "Service": { "Verb": "set", "Node": "storm", "Service": stranger(n, round) } });
        let all: Vec<Value> = (first..first + AT_ONCE).map(set).collect();
        server.must("PUT", "/v1/txn", &json!(all).to_string()).await?;
        changes.fetch_add(AT_ONCE, Relaxed);
    }
    Ok(())
}

/// What a killed process leaves behind is removed by its agent.
async fn reaped(fleet: &ConsulFleet, caller: &Caller, judge: &mut Judge) -> Result<()> {
    fleet.providers[0].kill9().await?;
    let killed = Instant::now();
    let outcome = fleet.truth(TTL + REAPED * 2).await;
    judge.succeeds("the record of a killed process is removed", outcome);
    judge.time("removed after", killed.elapsed(), TTL + REAPED);
    judge.succeeds("view without it", caller.view_is(&fleet.living(), TTL).await);
    Ok(())
}
