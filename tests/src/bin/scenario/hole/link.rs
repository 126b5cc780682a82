//! The link that breaks, and the providers on both sides of it.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, sync::Arc};

use meshwork_core::{Backend, Discovery};
use meshwork_registry::Fixed;
use meshwork_testkit::{
    ports::Port,
    process::Program,
    proxy::{FaultProxy, Toward},
};
use meshwork_tests::{Result, SERVICE, local_fleet::LocalFleet, provider::Plan};

use super::{
    NODES,
    namespace::{LIMIT, RULE, THERE},
};

/// The way to one provider.
pub(super) enum Link {
    Proxy(FaultProxy),
    /// What comes from [`THERE`] finds no route.
    Route,
}

/// Providers, of which the last is behind a link.
pub(super) struct Stage {
    pub(super) fleet: LocalFleet,
    pub(super) link: Link,
    pub(super) discovery: Arc<dyn Discovery>,
    /// Who is found.
    pub(super) ids: BTreeSet<String>,
    /// Where the last is found.
    pub(super) address: String,
}

// === impl Link ===

impl Link {
    /// Nothing arrives any more, and nobody is told.
    pub(super) async fn break_off(&self) -> Result<()> {
        match self {
            Self::Proxy(proxy) => {
                proxy.black_hole(Toward::Both);
                Ok(())
            }
            Self::Route => ip(&["rule", "add"]).await,
        }
    }

    /// How many connections were begun over it, where that can be seen.
    pub(super) fn connections(&self) -> Option<u64> {
        match self {
            Self::Proxy(proxy) => Some(proxy.traffic().connections),
            Self::Route => None,
        }
    }

    /// All is as before.
    pub(super) async fn heal(&self) -> Result<()> {
        match self {
            Self::Proxy(proxy) => {
                proxy.heal();
                Ok(())
            }
            Self::Route => ip(&["rule", "del"]).await,
        }
    }
}

/// Changes the rule that swallows answers.
async fn ip(verb: &[&str]) -> Result<()> {
    let process = Program::new("ip").args(verb).args(RULE).start()?;
    let status = process.ended(LIMIT).await?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("ip {verb:?}: {status}, {:?}", process.stderr()).into())
    }
}

// === impl Stage ===

impl Stage {
    /// Native instances; the last announces the proxy's address as its own.
    pub(super) async fn behind_a_proxy(actor: &Path) -> Result<Self> {
        let mut fleet = LocalFleet::start(actor, NODES - 1).await?;
        let port = Port::claim()?;
        let proxy = FaultProxy::start(port.addr()).await?;
        let plan = Plan::provider().on(&port).service("advertise.port", proxy.addr().port().to_string());
        fleet.join(plan, port).await?;
        let (discovery, ids, address) = (fleet.discovery()?, fleet.living(), proxy.addr().to_string());
        Ok(Self { fleet, link: Link::Proxy(proxy), discovery, ids, address })
    }

    /// Endpoints of a list, of which nothing more is known; the last has an address of its own.
    pub(super) async fn behind_a_route(actor: &Path) -> Result<Self> {
        let mut fleet = LocalFleet::start(actor, NODES - 1).await?;
        let port = Port::claim()?;
        let there = SocketAddr::new(THERE.parse()?, port.number());
        fleet.join(Plan::provider().service("http", there.to_string()), port).await?;
        let addrs: Vec<_> = fleet.providers.iter().map(|provider| provider.addr()).collect();
        let list = Fixed::new().service(SERVICE, addrs.iter().map(|addr| format!("grpc://{addr}")))?;
        let discovery = list.open()?.discovery.ok_or("a list finds nothing")?;
        let ids = addrs.iter().map(|addr| format!("static-{}-{}", addr.ip(), addr.port())).collect();
        Ok(Self { fleet, link: Link::Route, discovery, ids, address: there.to_string() })
    }
}
