//! The processes that are stopped.

use std::{path::Path, time::Duration};

use meshwork_testkit::ports::Port;
use meshwork_tests::{
    Result,
    event::Stopped,
    provider::{Plan, Provider},
};

use crate::registry::Registry;

/// How long the record of a process stays that is gone.
const TTL: &str = "2s";

pub(super) struct Stage<'a> {
    pub(super) actor: &'a Path,
    pub(super) registry: Registry,
    pub(super) settle: Duration,
    pub(super) deadline: Duration,
}

impl Stage<'_> {
    pub(super) fn plan(&self) -> Plan {
        let ms = |duration: Duration| format!("{}ms", duration.as_millis());
        let plan = Plan::provider()
            .config("drain.settle", ms(self.settle))
            .config("drain.deadline", ms(self.deadline));
        // A process that is ended by its second signal cannot leave; its record does.
        let plan = match self.registry {
            Registry::Etcd(_) => plan.config("registry.etcd.lease_ttl", TTL),
            Registry::Consul(_) => plan.config("registry.consul.ttl", TTL),
            Registry::Local(_) => plan,
        };
        self.registry.announced_here(plan)
    }

    pub(super) async fn provider(&self) -> Result<Provider> {
        let port = Port::claim()?;
        self.plan().on(&port).start(self.actor).await
    }
}

/// Whether the report names `what` among what was cut.
pub(super) fn names(stopped: &Stopped, what: &str) -> bool {
    stopped.cut.iter().any(|line| line.contains(what))
}
