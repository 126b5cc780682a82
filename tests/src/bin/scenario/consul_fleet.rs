//! Provider processes on real Consul agents.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use meshwork_testkit::{
    consul::{Consul, ConsulPlan},
    truth::eventually,
};
use meshwork_tests::{
    Result, SERVICE,
    provider::{Plan, Provider},
};
use serde_json::Value;

/// How long a provider may take to stop.
const STOP: Duration = Duration::from_secs(30);

/// Providers and their agents.
pub(crate) struct ConsulFleet {
    pub(crate) consul: Arc<Consul>,
    pub(crate) providers: Vec<Provider>,
    /// Of the providers, where tokens are asked for.
    pub(crate) token: Option<String>,
    actor: PathBuf,
}

// === impl ConsulFleet ===

impl ConsulFleet {
    /// Starts the agents.
    pub(crate) async fn start(actor: &Path, plan: ConsulPlan) -> Result<Self> {
        let consul = Arc::new(plan.start().await.map_err(|error| format!("{error:?}"))?);
        Ok(Self { consul, providers: Vec::new(), token: None, actor: actor.to_owned() })
    }

    /// Starts one more provider, which announces itself at this agent; its place among them.
    pub(crate) async fn provide(&mut self, url: &str, ttl: Duration) -> Result<usize> {
        let plan = Plan::provider()
            .consul(url)
            .config("registry.consul.ttl", format!("{}s", ttl.as_secs()))
            .config("drain.settle", "500ms")
            .config("drain.deadline", "5s");
        let plan = match &self.token {
            Some(token) => plan.config("registry.consul.token", token),
            None => plan,
        };
        let port = meshwork_testkit::ports::Port::claim()?;
        self.providers.push(plan.on(&port).start(&self.actor).await?);
        Ok(self.providers.len() - 1)
    }

    /// The ids of the processes that live.
    pub(crate) fn living(&self) -> BTreeSet<String> {
        let living = self.providers.iter().filter(|provider| provider.process().is_running());
        living.map(|provider| provider.id().to_owned()).collect()
    }

    /// The process ids of those that live.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let living = self.providers.iter().filter(|provider| provider.process().is_running());
        living.map(Provider::pid).collect()
    }

    /// Waits until the catalog holds, as passing, the records of the living and no others of ours.
    pub(crate) async fn truth(&self, limit: Duration) -> Result<()> {
        let living = self.living();
        let told = format!("the catalog holds one passing record for each of {} processes", living.len());
        let outcome =
            eventually(limit, &told, || async { listed(&self.consul).await.is_ok_and(|ids| ids == living) })
                .await;
        match outcome {
            Ok(()) => Ok(()),
            Err(error) => {
                Err(format!("{error}: living {living:?}, listed {:?}", listed(&self.consul).await?).into())
            }
        }
    }

    /// Stops every process that lives; says which one did not stop cleanly.
    pub(crate) async fn stop(&self) -> Result<()> {
        let living = self.providers.iter().filter(|provider| provider.process().is_running());
        let living: Vec<&Provider> = living.collect();
        living.iter().for_each(|provider| provider.process().terminate());
        for provider in living {
            let stopped = provider.stopped(STOP).await?;
            if stopped.code != 0 || !stopped.faults.is_empty() {
                return Err(format!("provider {} stopped with {stopped:?}", provider.id()).into());
            }
        }
        Ok(())
    }
}

/// The ids of all records of [`SERVICE`] that Meshwork processes wrote; those that do not pass end in `!`.
pub(crate) async fn listed(consul: &Consul) -> Result<BTreeSet<String>> {
    let said = consul.first().must("GET", &format!("/v1/health/service/{SERVICE}"), "").await?;
    let rows: Vec<Value> = serde_json::from_str(&said)?;
    let native = rows.iter().filter(|row| row["Service"]["Meta"]["meshwork-schema"].is_string());
    let listed = native.map(|row| {
        let checks = row["Checks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let passes = checks.iter().all(|check| check["Status"] == "passing");
        let id = row["Service"]["ID"].as_str().unwrap_or_default();
        format!("{id}{}", if passes { "" } else { "!" })
    });
    Ok(listed.collect())
}
