//! Provider processes over the embedded registry, for scenarios that no registry server concerns: a directory is
//! cheaper, and nothing in it competes with the calls.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    ENVIRONMENT, Result, SERVICE,
    provider::{Plan, Provider},
    residue::sockets,
};
use meshwork_core::{Backend, Discovery};
use meshwork_registry::{Local, LocalConfig};
use meshwork_testkit::{ports::Port, truth::eventually};
use tempfile::TempDir;

/// How long a provider may take to stop.
const STOP: Duration = Duration::from_secs(30);
/// How long the sockets of connections that were closed may stay.
const CLOSED: Duration = Duration::from_secs(15);

/// Providers that announce themselves in one directory. Dropping it kills them.
#[derive(Debug)]
pub struct LocalFleet {
    dir: TempDir,
    /// The processes, in the order in which they were asked for.
    pub providers: Vec<Provider>,
    /// What each held before anybody called.
    sockets: Vec<Option<usize>>,
    actor: PathBuf,
    /// Claimed until the end, so that nobody else is given the address of one that was killed.
    ports: Vec<Port>,
}

// === impl LocalFleet ===

impl LocalFleet {
    /// Starts so many providers of [`SERVICE`], all at once.
    ///
    /// # Errors
    /// When one of them does not serve.
    ///
    /// # Cancel safety
    /// Dropping the future kills them.
    pub async fn start(actor: &Path, count: usize) -> Result<Self> {
        let mut fleet = Self {
            dir: TempDir::new()?,
            providers: Vec::new(),
            sockets: Vec::new(),
            actor: actor.to_owned(),
            ports: Vec::new(),
        };
        fleet.grow((0..count).map(|_| Plan::provider()).collect()).await?;
        Ok(fleet)
    }

    /// Starts more providers, also of other services, each on a port of its own.
    ///
    /// # Errors
    /// When one of them does not serve.
    ///
    /// # Cancel safety
    /// Dropping the future kills those that were launched and not yet seen to serve.
    pub async fn grow(&mut self, plans: Vec<Plan>) -> Result<()> {
        let mut launched = Vec::new();
        for plan in plans {
            let port = Port::claim()?;
            launched.push(plan.on(&port).local(self.dir.path()).launch(&self.actor)?);
            self.ports.push(port);
        }
        for process in launched {
            self.joined(Provider::of(process).await?);
        }
        Ok(())
    }

    /// Starts one more provider, which listens where its plan says: on `port`, or on another address of that number.
    ///
    /// # Errors
    /// When it does not serve.
    ///
    /// # Cancel safety
    /// Dropping the future kills it.
    pub async fn join(&mut self, plan: Plan, port: Port) -> Result<()> {
        self.joined(plan.local(self.dir.path()).start(&self.actor).await?);
        self.ports.push(port);
        Ok(())
    }

    fn joined(&mut self, provider: Provider) {
        self.sockets.push(sockets(provider.pid()));
        self.providers.push(provider);
    }

    /// The content of `[registry]` for callers.
    pub fn registry(&self) -> String {
        format!("use = \"local\"\n[registry.local]\ndir = {:?}\n", self.dir.path().display().to_string())
    }

    /// Finds them, for callers without a configuration.
    ///
    /// # Errors
    /// Never, as long as the directory is there.
    pub fn discovery(&self) -> Result<Arc<dyn Discovery>> {
        discovery(self.dir.path())
    }

    /// The ids of the processes that live.
    pub fn living(&self) -> BTreeSet<String> {
        let living = self.providers.iter().filter(|provider| provider.process().is_running());
        living.map(|provider| provider.id().to_owned()).collect()
    }

    /// Waits until the directory holds the records of `expected` and no others.
    async fn records_are(&self, expected: &BTreeSet<String>, limit: Duration) -> Result<()> {
        let outcome = eventually(limit, "the directory is the truth", || async {
            announced(self.dir.path()) == *expected
        });
        outcome
            .await
            .map_err(|error| format!("{error}: {:?}, not {expected:?}", announced(self.dir.path())).into())
    }

    /// Stops every process that lives. Callers must have ended before.
    ///
    /// # Errors
    /// When one does not stop cleanly, or anything is left: a connection of callers, a record.
    ///
    /// # Cancel safety
    /// Dropping the future kills them.
    pub async fn stop(self) -> Result<()> {
        let is_alive = |(provider, _): &(&Provider, _)| provider.process().is_running();
        let living: Vec<_> = self.providers.iter().zip(&self.sockets).filter(is_alive).collect();
        let closed = || async { living.iter().all(|(provider, before)| sockets(provider.pid()) <= **before) };
        eventually(CLOSED, "providers hold no more sockets than at first", closed).await?;
        living.iter().for_each(|(provider, _)| provider.process().terminate());
        for (provider, _) in living {
            let stopped = provider.stopped(STOP).await?;
            if stopped.code != 0 || !stopped.faults.is_empty() {
                return Err(format!("provider {} stopped with {stopped:?}", provider.id()).into());
            }
        }
        self.records_are(&BTreeSet::new(), STOP).await
    }
}

/// Finds what is announced in this directory, for callers without a configuration.
///
/// # Errors
/// Never, as long as the directory is there.
pub fn discovery(dir: &Path) -> Result<Arc<dyn Discovery>> {
    let mut config = LocalConfig::default();
    config.dir = Some(dir.to_owned());
    config.env = ENVIRONMENT.to_owned();
    Ok(Local::with_config(config).open()?.discovery.ok_or("a directory finds nothing")?)
}

/// The ids of all records of [`SERVICE`] in this directory.
pub fn announced(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir.join(ENVIRONMENT).join(SERVICE)).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect()
}
