//! The registries over which scenarios are played, each asked the same: announce there, find there, what is there.

use std::{collections::BTreeSet, fmt, net::SocketAddr, sync::Arc, time::Duration};

use meshwork::Consul;
use meshwork_core::{Backend, Discovery};
use meshwork_registry_etcd::Etcd;
use meshwork_testkit::{consul, etcd, proxy::FaultProxy, truth::eventually};
use meshwork_tests::{ENVIRONMENT, Result, SERVICE, local_fleet, provider::Plan, records};
use tempfile::TempDir;

use crate::{caller::Caller, consul_fleet::listed};

/// What a request of a client may take: a link that is slow by seconds is no reason to give up.
const REQUEST: Duration = Duration::from_secs(20);

/// A registry, and the way to it.
pub(crate) enum Registry {
    Etcd(Box<etcd::Etcd>),
    Consul(Arc<consul::Consul>),
    Local(TempDir),
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Etcd(_) => "etcd",
            Self::Consul(_) => "consul",
            Self::Local(_) => "local",
        })
    }
}

impl Registry {
    pub(crate) async fn etcd() -> Result<Self> {
        let started = etcd::Etcd::single().start().await;
        Ok(Self::Etcd(Box::new(started.map_err(|error| format!("{error:?}"))?)))
    }

    pub(crate) async fn consul() -> Result<Self> {
        let started = consul::Consul::dev().start().await;
        Ok(Self::Consul(Arc::new(started.map_err(|error| format!("{error:?}"))?)))
    }

    pub(crate) fn local() -> Result<Self> {
        Ok(Self::Local(TempDir::new()?))
    }

    /// The server to put a slow link in front of; a directory has none.
    pub(crate) fn server(&self) -> Result<Option<SocketAddr>> {
        Ok(match self {
            Self::Etcd(etcd) => {
                let endpoints = etcd.endpoints();
                let first = endpoints.first().ok_or("etcd without an endpoint")?;
                Some(first.trim_start_matches("http://").parse()?)
            }
            Self::Consul(consul) => Some(consul.first().addr()),
            Self::Local(_) => None,
        })
    }

    /// When a client has heard of a change at the latest, over a link that is late by `delay`.
    pub(super) fn told_within(&self, delay: Duration) -> Duration {
        match self {
            // An answer that is on its way does not have it; the next one does.
            Self::Consul(_) => delay * 2,
            Self::Etcd(_) | Self::Local(_) => delay,
        }
    }

    /// A process of this plan announces itself here.
    pub(crate) fn announced_here(&self, plan: Plan) -> Plan {
        match self {
            Self::Etcd(etcd) => plan.etcd(&etcd.endpoints()),
            Self::Consul(consul) => plan.consul(&consul.first().url()),
            Self::Local(dir) => plan.local(dir.path()),
        }
    }

    /// Finds over this link, or without one.
    pub(crate) fn discovery(&self, link: Option<&FaultProxy>) -> Result<Arc<dyn Discovery>> {
        let url = |of: String| link.map_or(of, FaultProxy::url);
        let parts = match self {
            Self::Etcd(etcd) => {
                let first = etcd.endpoints().into_iter().next().ok_or("etcd without an endpoint")?;
                let etcd = Etcd::new([url(first)]).with_env(ENVIRONMENT);
                etcd.with_request_timeout(REQUEST).with_attempt_timeout(REQUEST).open()?
            }
            Self::Consul(consul) => {
                let consul = Consul::new(url(consul.first().url())).with_env(ENVIRONMENT);
                consul.with_request_timeout(REQUEST).open()?
            }
            Self::Local(dir) => return local_fleet::discovery(dir.path()),
        };
        Ok(parts.discovery.ok_or("a registry that finds nothing")?)
    }

    /// The content of `[registry]` for callers.
    pub(crate) fn found_here(&self) -> String {
        match self {
            Self::Etcd(etcd) => {
                format!("use = \"etcd\"\n[registry.etcd]\nendpoints = {:?}\n", etcd.endpoints())
            }
            Self::Consul(consul) => {
                format!("use = \"consul\"\n[registry.consul]\naddress = {:?}\n", consul.first().url())
            }
            Self::Local(dir) => {
                let dir = dir.path().display().to_string();
                format!("use = \"local\"\n[registry.local]\ndir = {dir:?}\n")
            }
        }
    }

    /// The ids of all records; those that nobody is to call end in `!`.
    pub(crate) async fn announced(&self) -> Result<BTreeSet<String>> {
        match self {
            Self::Etcd(etcd) => records::announced(etcd, SERVICE).await,
            Self::Consul(consul) => listed(consul).await,
            Self::Local(dir) => Ok(local_fleet::announced(dir.path())),
        }
    }

    /// Whether it holds the records of these, with nothing else of ours.
    pub(crate) async fn holds(&self, ids: &BTreeSet<String>) -> bool {
        let leases = match self {
            Self::Etcd(etcd) => records::leases(etcd).await.is_ok_and(|held| held.len() == ids.len()),
            Self::Consul(_) | Self::Local(_) => true,
        };
        leases && self.announced().await.is_ok_and(|held| held == *ids)
    }

    /// Waits until nothing is left that anybody could call; takes away what the dead have left.
    pub(crate) async fn empty(&self, limit: Duration) -> Result<()> {
        // Files of the dead are taken away by whoever looks.
        let looks = Caller::over(&self.found_here(), "1s");
        let seen = looks.view_is(&BTreeSet::new(), limit).await;
        let is_empty = || async {
            match self {
                // An agent keeps for a minute what has died.
                Self::Consul(_) => {
                    self.announced().await.is_ok_and(|ids| ids.iter().all(|id| id.ends_with('!')))
                }
                Self::Etcd(_) | Self::Local(_) => self.holds(&BTreeSet::new()).await,
            }
        };
        let empty = eventually(limit, "no record and no lease is left", is_empty).await;
        looks.end().await;
        seen?;
        Ok(empty?)
    }
}
