//! Two registries behind links that can be cut, providers behind doors that count, and an eye on a caller's view.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use meshwork::{App, Handle};
use meshwork_core::Task;
use meshwork_testkit::{
    consul::Consul, etcd::Etcd, load::Report, ports::Port, proxy::FaultProxy, truth::eventually,
};
use meshwork_tests::{
    ENVIRONMENT, Result, SERVICE,
    judge::{Judge, Length},
    provider::{Plan, Provider},
    records,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::caller::{Caller, Failure};

/// Calls per second.
pub(super) const RATE: f64 = 200.0;
/// No single step takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// How long a record outlives its process: longer than half a second of flapping, shorter than an outage.
const TTL: &str = "10s";
/// The same for who is in one registry only: longer than the outage, since nobody else can tell that he lives.
const ALONE: &str = "180s";

/// One of the two registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Etcd,
    Consul,
}

/// Where a provider announces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Both,
    Primary,
    Secondary,
    /// As the file says that all share while they move.
    Moving,
}

/// A provider and the door in front of it.
pub(super) struct Place {
    pub(super) front: FaultProxy,
    pub(super) provider: Provider,
    pub(super) home: Home,
    /// Ours as long as the provider may be there.
    pub(super) _port: Port,
}

pub(super) struct Stage {
    pub(super) actor: PathBuf,
    pub(super) etcd: Etcd,
    pub(super) places: Vec<Place>,
    consul: Consul,
    links: [FaultProxy; 2],
    files: TempDir,
}

/// Looks at a caller's view all the time.
pub(super) struct Eye {
    must: Arc<Mutex<BTreeSet<String>>>,
    missed: Arc<Mutex<Missed>>,
    looking: Task,
}

/// Looks that did not see everybody.
#[derive(Default)]
struct Missed {
    looks: usize,
    /// Who was missing first, and how long after the opening.
    first: Option<(String, Duration)>,
}

impl Home {
    fn dir(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Primary => "primary",
            Self::Secondary => "secondary",
            Self::Moving => "moving",
        }
    }
}

// === impl Stage ===

impl Stage {
    pub(super) async fn start(actor: &Path) -> Result<Self> {
        let (etcd, consul) = tokio::join!(Etcd::single().start(), Consul::dev().start());
        let (etcd, consul) = (etcd.map_err(|e| format!("{e:?}"))?, consul.map_err(|e| format!("{e:?}"))?);
        let links = [
            FaultProxy::start(etcd.member(0).addr()).await?,
            FaultProxy::start(consul.first().addr()).await?,
        ];
        let files = tempfile::tempdir()?;
        let stage = Self { actor: actor.to_owned(), etcd, places: Vec::new(), consul, links, files };
        for home in [Home::Both, Home::Primary, Home::Secondary] {
            stage.write(home, home.dir(), "union")?;
        }
        Ok(stage)
    }

    /// Writes the file of these providers, as an editor would: whole, then in its place.
    pub(super) fn write(&self, home: Home, write: &str, read: &str) -> Result<()> {
        let dir = self.files.path().join(home.dir());
        fs::create_dir_all(&dir)?;
        let ttl = if matches!(home, Home::Primary | Home::Secondary) { ALONE } else { TTL };
        let text = format!(
            "[registry]\nuse = \"both\"\n\
             [registry.both]\nkind = \"dual\"\nprimary = \"etcd\"\nsecondary = \"consul\"\n\
             write = {write:?}\nread = {read:?}\n\
             [registry.etcd]\nendpoints = [{:?}]\nlease_ttl = {ttl:?}\n\
             [registry.consul]\naddress = {:?}\nttl = {ttl:?}\n\
             [drain]\nsettle = \"500ms\"\ndeadline = \"5s\"\n",
            self.links[0].url(),
            self.links[1].url(),
        );
        fs::write(dir.join("new"), text)?;
        Ok(fs::rename(dir.join("new"), dir.join("default.toml"))?)
    }

    /// Starts one more provider; its place.
    pub(super) async fn provide(&mut self, home: Home) -> Result<usize> {
        let port = Port::claim()?;
        let front = FaultProxy::start(port.addr()).await?;
        let plan = Plan::provider()
            .on(&port)
            .config("service.advertise.port", front.addr().port().to_string())
            .env("MESHWORK_CONFIG_DIR", self.files.path().join(home.dir()).display().to_string());
        let provider = plan.start(&self.actor).await?;
        self.places.push(Place { front, provider, home, _port: port });
        Ok(self.places.len() - 1)
    }

    /// Stops the provider of a place. What it says of a registry that is away is no fault of it.
    pub(super) async fn stop(&self, place: usize) -> Result<()> {
        let stopped = self.places[place].provider.stop(PATIENCE).await?;
        let is_away = |fault: &String| fault.starts_with("deregistration");
        match stopped.code == 0 && stopped.faults.iter().all(is_away) {
            true => Ok(()),
            false => Err(format!("{} stopped with {stopped:?}", stopped.cause).into()),
        }
    }

    /// A caller over both, by a file of its own, and the handle of its app.
    pub(super) async fn caller(&self, read: &str) -> Result<(Caller, Handle)> {
        self.write(Home::Moving, "both", read)?;
        let app = App::new()
            .with_environment(ENVIRONMENT)
            .with_config_dir(self.files.path().join(Home::Moving.dir()))
            .with_config(format!("[service]\nname = \"scenario\"\n[client.{SERVICE}]\ntimeout = \"1s\"\n"));
        let handle = app.handle();
        let caller = Caller::of(app);
        Ok((caller, handle))
    }

    fn running(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|place| place.provider.process().is_running())
    }

    pub(super) fn living(&self) -> BTreeSet<String> {
        self.running().map(|place| place.provider.id().to_owned()).collect()
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.running().map(|place| place.provider.pid()).collect()
    }

    /// The connections that were ever made to each place.
    pub(super) fn connections(&self) -> Vec<u64> {
        self.places.iter().map(|place| place.front.traffic().connections).collect()
    }

    /// None may have been made since to those places.
    pub(super) fn judge_connections(&self, before: &[u64], judge: &mut Judge) {
        let newly: Vec<_> =
            self.connections().iter().zip(before).map(|(now, before)| (now - before) as usize).collect();
        judge.count("new connections to who stayed", newly.iter().sum(), 0);
        for (place, newly) in self.places.iter().zip(&newly).filter(|(_, newly)| **newly > 0) {
            judge.note(&format!("{newly} new connections to `{}` ({:?})", place.provider.id(), place.home));
        }
    }

    fn link(&self, side: Side) -> &FaultProxy {
        &self.links[side as usize]
    }

    pub(super) async fn cut(&self, side: Side) -> Result<()> {
        self.link(side).refuse().await?;
        Ok(self.link(side).cut().await?)
    }

    pub(super) async fn heal(&self, side: Side) -> Result<()> {
        Ok(self.link(side).accept().await?)
    }

    /// Takes a record away behind everybody's back.
    pub(super) async fn forget(&self, side: Side, id: &str) -> Result<()> {
        match side {
            Side::Etcd => {
                let key = format!("/meshwork/{ENVIRONMENT}/instances/{SERVICE}/{id}");
                self.etcd.etcdctl(["del", &key]).await?;
            }
            Side::Consul => {
                let path = format!("/v1/agent/service/deregister/{id}");
                let _is_there = self.consul.first().ask("PUT", &path, "").await?;
            }
        }
        Ok(())
    }

    /// Puts a record into Consul that no Meshwork process has written. A tag says which protocol is spoken there.
    pub(super) async fn put_stranger(&self, id: &str, addr: SocketAddr, tags: &[&str]) -> Result<()> {
        let (ip, port) = (addr.ip().to_string(), addr.port());
        let body = json!({ "ID": id, "Name": SERVICE, "Address": ip, "Port": port, "Tags": tags });
        self.consul.first().must("PUT", "/v1/agent/service/register", &body.to_string()).await?;
        Ok(())
    }

    /// Waits until a side that was away holds everybody again who announces himself there, passing.
    pub(super) async fn whole(&self, side: Side, limit: Duration) -> Result<()> {
        let announces = |home| match side {
            Side::Etcd => home != Home::Secondary,
            Side::Consul => home != Home::Primary,
        };
        let there: Vec<_> = self.running().filter(|place| announces(place.home)).collect();
        let whole = || async {
            let listed = match side {
                Side::Etcd => self.listed(side).await,
                Side::Consul => self.passing().await,
            };
            listed.is_ok_and(|ids| there.iter().all(|place| ids.contains(place.provider.id())))
        };
        Ok(eventually(limit, &format!("{side:?} holds all {}", there.len()), whole).await?)
    }

    async fn passing(&self) -> Result<BTreeSet<String>> {
        let path = format!("/v1/health/service/{SERVICE}?passing");
        let rows: Vec<Value> = serde_json::from_str(&self.consul.first().must("GET", &path, "").await?)?;
        Ok(rows.iter().filter_map(|row| row["Service"]["ID"].as_str()).map(str::to_owned).collect())
    }

    pub(super) async fn lists(&self, side: Side, id: &str) -> Result<bool> {
        Ok(self.listed(side).await?.contains(id))
    }

    /// What a registry itself says.
    pub(super) async fn listed(&self, side: Side) -> Result<BTreeSet<String>> {
        match side {
            Side::Etcd => records::announced(&self.etcd, SERVICE).await,
            Side::Consul => {
                let said = self.consul.first().must("GET", "/v1/agent/services", "").await?;
                let services: serde_json::Map<String, Value> = serde_json::from_str(&said)?;
                Ok(services.keys().cloned().collect())
            }
        }
    }

    /// Watches that everybody who lives now stays in the view.
    pub(super) fn watch(&self, caller: &Caller) -> Eye {
        Eye::open(caller.clone(), self.living())
    }

    /// Stops everybody; both registries must be empty then.
    pub(super) async fn empty(&mut self, judge: &mut Judge, length: Length) -> Result<()> {
        for place in 0..self.places.len() {
            if self.places[place].provider.process().is_running() {
                judge.succeeds("providers stop", self.stop(place).await);
            }
        }
        self.places.clear();
        for side in [Side::Etcd, Side::Consul] {
            let nobody = || async { self.listed(side).await.is_ok_and(|ids| ids.is_empty()) };
            let limit = length.allows(Duration::from_secs(2));
            judge
                .succeeds(&format!("{side:?} is empty"), eventually(limit, "nobody is listed", nobody).await);
        }
        let leases = || async { records::leases(&self.etcd).await.is_ok_and(|leases| leases.is_empty()) };
        judge.succeeds("no lease is left", eventually(PATIENCE, "no lease is left", leases).await);
        Ok(())
    }
}

/// Whether the caller's view says that both sides are fresh.
pub(super) fn is_fresh(handle: &Handle) -> bool {
    let standings = handle.dual("both").map(|dual| dual.standings()).unwrap_or_default();
    let is_fresh =
        |side: &Option<meshwork::Staleness>| side.as_ref().is_some_and(meshwork::Staleness::is_fresh);
    !standings.is_empty() && standings.iter().all(|standing| standing.staleness.iter().all(is_fresh))
}

/// How many instances a side shows to the caller.
pub(super) fn shown(handle: &Handle, side: Side) -> usize {
    let standings = handle.dual("both").map(|dual| dual.standings()).unwrap_or_default();
    standings.first().map_or(0, |standing| standing.instances[side as usize])
}

/// The calls of a part.
pub(super) fn tell(part: &str, report: &Report<u32, Failure>, judge: &mut Judge) {
    judge.told(&format!("{part}: calls"), report.calls().len());
    judge.count("failed", report.failed(), 0);
    if let Some(failure) = report.calls().iter().find_map(Caller::failure) {
        judge.note(&format!("first failure: {failure}"));
    }
    judge.told("p99", format_args!("{:.1} ms", report.p99().as_secs_f64() * 1e3));
}

// === impl Eye ===

impl Eye {
    fn open(caller: Caller, must: BTreeSet<String>) -> Self {
        let (must, missed) = (Arc::new(Mutex::new(must)), Arc::new(Mutex::new(Missed::default())));
        let opened = Instant::now();
        let stop = CancellationToken::new();
        let work = {
            let (must, missed, stop) = (Arc::clone(&must), Arc::clone(&missed), stop.clone());
            async move {
                let mut beat = interval(Duration::from_millis(10));
                beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
                while timeout(Duration::ZERO, stop.cancelled()).await.is_err() {
                    beat.tick().await;
                    let nodes = caller.channel().nodes();
                    let seen: BTreeSet<_> = nodes.iter().map(|node| node.instance.id.as_str()).collect();
                    let absent = locked(&must).iter().find(|id| !seen.contains(id.as_str())).cloned();
                    if let Some(id) = absent {
                        let mut missed = locked(&missed);
                        missed.looks += 1;
                        missed.first.get_or_insert_with(|| (id, opened.elapsed()));
                    }
                }
            }
        };
        Self { must, missed, looking: Task::new("eye", stop, tokio::spawn(work)) }
    }

    /// This one may leave the view from now on.
    pub(super) fn forgets(&self, id: &str) {
        locked(&self.must).remove(id);
    }

    /// None of its looks may have missed anybody.
    pub(super) async fn judged(self, judge: &mut Judge) {
        let Self { missed, looking, .. } = self;
        looking.end(PATIENCE).await;
        let missed = locked(&missed);
        judge.count("looks without somebody who lives", missed.looks, 0);
        if let Some((id, after)) = &missed.first {
            judge.note(&format!("`{id}` was missing first after {after:.1?}"));
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
