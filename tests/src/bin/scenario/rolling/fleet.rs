//! Five processes and their restarts: asked to stop by SIGTERM, waited for, started anew at the same address.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use meshwork_testkit::{certs::Authority, ports::Port, truth::eventually};
use meshwork_tests::{
    Result,
    event::Stopped,
    judge::Judge,
    provider::{Plan, Provider},
    residue::sockets,
};
use tempfile::TempDir;

use crate::registry::Registry;

/// How many there are.
pub(super) const PLACES: usize = 5;
/// How long one may take to stop.
pub(super) const STOP: Duration = Duration::from_secs(60);
/// How long the sockets of connections that were closed may stay.
const CLOSED: Duration = Duration::from_secs(15);

/// What listeners show of themselves, and who signed it.
pub(super) struct Certificates {
    _dir: TempDir,
    pub(super) authority: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

impl Certificates {
    pub(super) fn new() -> Result<Self> {
        let dir = TempDir::new()?;
        let authority = Authority::new("scenario")?;
        let (cert, key) = authority.server(&["127.0.0.1"])?.write(dir.path(), "provider")?;
        Ok(Self { authority: authority.write(dir.path())?, cert, key, _dir: dir })
    }

    /// The plan of a process that listens with them.
    pub(super) fn shown_by(&self, plan: Plan) -> Plan {
        let plan = plan.service("tls.cert_file", self.cert.display().to_string());
        plan.service("tls.key_file", self.key.display().to_string())
    }
}

/// How processes stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manners {
    pub(super) settle: Duration,
    pub(super) deadline: Duration,
}

impl Manners {
    /// So much time to notice, and as much more for the rest as is usual.
    pub(super) fn settling(settle: Duration) -> Self {
        Self { settle, deadline: settle + Duration::from_secs(10) }
    }

    pub(super) fn of(self, plan: Plan) -> Plan {
        let ms = |time: Duration| format!("{}ms", time.as_millis());
        plan.config("drain.settle", ms(self.settle)).config("drain.deadline", ms(self.deadline))
    }
}

/// One address, and the process that is there now.
struct Place {
    plan: Plan,
    provider: Provider,
}

/// The processes.
pub(super) struct Fleet<'a> {
    actor: &'a Path,
    registry: &'a Registry,
    places: Vec<Place>,
    _ports: Vec<Port>,
    /// The most sockets that one of them held before anybody called.
    sockets: Option<usize>,
    /// What those that have ended did.
    ended: Vec<Stopped>,
}

impl<'a> Fleet<'a> {
    /// Starts all of them at once, each on a port of its own.
    pub(super) async fn start(actor: &'a Path, registry: &'a Registry, plan: Plan) -> Result<Self> {
        let ports = (0..PLACES).map(|_| Port::claim()).collect::<Result<Vec<_>, _>>()?;
        let addrs = ports.iter().map(Port::addr).collect();
        Self::start_at(addrs, ports, actor, registry, plan).await
    }

    /// The same on one port of several addresses, as a name stands for them.
    pub(super) async fn start_on_one_port(
        actor: &'a Path,
        registry: &'a Registry,
        plan: Plan,
    ) -> Result<Self> {
        let port = Port::claim()?;
        let addrs = (1_u8..).take(PLACES).map(|last| ([127, 0, 0, last], port.number()).into()).collect();
        Self::start_at(addrs, vec![port], actor, registry, plan).await
    }

    async fn start_at(
        addrs: Vec<SocketAddr>,
        ports: Vec<Port>,
        actor: &'a Path,
        registry: &'a Registry,
        plan: Plan,
    ) -> Result<Self> {
        let plan = registry.announced_here(plan);
        let mut launched = Vec::new();
        for addr in addrs {
            let plan = plan.clone().at(addr);
            let process = plan.launch(actor)?;
            launched.push((plan, process));
        }
        let mut places = Vec::new();
        for (plan, process) in launched {
            places.push(Place { plan, provider: Provider::of(process).await? });
        }
        let sockets = places.iter().filter_map(|place| sockets(place.provider.pid())).max();
        Ok(Self { actor, registry, places, _ports: ports, sockets, ended: Vec::new() })
    }

    /// Where they listen.
    pub(super) fn addrs(&self) -> Vec<SocketAddr> {
        self.places.iter().map(|place| place.provider.addr()).collect()
    }

    /// One of them makes place for a new one.
    async fn restart(&mut self, place: usize) -> Result<()> {
        let Place { plan, provider } = &mut self.places[place];
        self.ended.push(provider.stop(STOP).await?);
        *provider = plan.start(self.actor).await?;
        Ok(())
    }

    /// All of them, one after the other, so many times.
    pub(super) async fn roll(&mut self, rounds: usize) -> Result<()> {
        for place in (0..rounds).flat_map(|_| 0..PLACES) {
            self.restart(place).await?;
        }
        Ok(())
    }

    /// The ids of those that run.
    pub(super) fn living(&self) -> BTreeSet<String> {
        self.places.iter().map(|place| place.provider.id().to_owned()).collect()
    }

    /// Judges that the registry holds these and nothing else.
    pub(super) async fn truth(&self, ids: &BTreeSet<String>, limit: Duration, judge: &mut Judge) {
        let holds = || async { self.registry.holds(ids).await };
        judge.succeeds("registry equals truth", eventually(limit, "it holds what lives", holds).await);
    }

    /// Stops all, whose callers have ended. Judges that nothing was cut and nothing is left; says how many calls
    /// were begun in all.
    pub(super) async fn stop(mut self, limit: Duration, judge: &mut Judge) -> Result<u64> {
        let closed =
            || async { self.places.iter().all(|place| sockets(place.provider.pid()) <= self.sockets) };
        let closed = eventually(CLOSED, "providers hold no more sockets than at first", closed).await;
        judge.succeeds("no connection is left", closed);
        self.places.iter().for_each(|place| place.provider.process().terminate());
        for place in &self.places {
            self.ended.push(place.provider.stopped(STOP).await?);
        }
        self.truth(&BTreeSet::new(), limit, judge).await;
        Ok(clean(&self.ended, judge))
    }
}

/// Judges that processes stopped and cut nothing; says how many calls were begun in all.
pub(super) fn clean(ended: &[Stopped], judge: &mut Judge) -> u64 {
    let is_clean =
        |stopped: &&Stopped| stopped.code == 0 && stopped.cut.is_empty() && stopped.faults.is_empty();
    if let Some(first) = ended.iter().find(|stopped| !is_clean(stopped)) {
        judge.note(&format!("stopped with {first:?}"));
    }
    judge.told("stops", ended.len());
    judge.count("not clean", ended.iter().filter(|stopped| !is_clean(stopped)).count(), 0);
    let runs = ended.iter().map(|stopped| {
        let served = stopped.served;
        served.get.entered + served.work.entered + served.effect.entered
    });
    runs.sum()
}
