//! A platform that announces on behalf of processes, as Kubernetes does: it takes an address out of the list some time
//! before or after it sends SIGTERM, and no hook sleeps in between.

use std::{net::SocketAddr, path::Path, time::Duration};

use meshwork_core::{Instance, InstanceId, Origin, ServiceName};
use meshwork_testkit::ports::Port;
use meshwork_tests::{
    Result, SERVICE,
    event::Stopped,
    provider::{Plan, Provider},
};
use tokio::time::sleep;

use super::{
    fleet::{PLACES, STOP},
    sight::List,
};

/// When the address leaves the list, from the signal, in milliseconds.
pub(super) type Offset = i64;

/// One process, and its line in the list.
struct Pod {
    provider: Provider,
    id: InstanceId,
    _port: Port,
}

/// The processes and the list.
pub(super) struct Platform<'a> {
    actor: &'a Path,
    plan: Plan,
    pub(super) list: List,
    pods: Vec<Pod>,
    pub(super) ended: Vec<Stopped>,
}

impl<'a> Platform<'a> {
    pub(super) async fn start(actor: &'a Path, plan: Plan) -> Result<Self> {
        let plan = plan.unannounced();
        let mut platform = Self { actor, plan, list: List::new(), pods: Vec::new(), ended: Vec::new() };
        for _ in 0..PLACES {
            platform.begin().await?;
        }
        Ok(platform)
    }

    /// One more process at a new address, listed once it serves.
    async fn begin(&mut self) -> Result<()> {
        let port = Port::claim()?;
        let provider = self.plan.clone().on(&port).start(self.actor).await?;
        let instance = listed(provider.addr())?;
        self.pods.push(Pod { provider, id: instance.id.clone(), _port: port });
        self.list.add(instance);
        Ok(())
    }

    /// The oldest process goes, and then a new one comes.
    pub(super) async fn replace(&mut self, offset: Offset) -> Result<()> {
        let apart = Duration::from_millis(offset.unsigned_abs());
        let Pod { provider, id, _port: port } = self.pods.remove(0);
        if offset < 0 {
            self.list.remove(&id);
            sleep(apart).await;
            provider.process().terminate();
        } else {
            provider.process().terminate();
            sleep(apart).await;
            self.list.remove(&id);
        }
        self.ended.push(provider.stopped(STOP).await?);
        drop(port);
        self.begin().await
    }

    /// The ids in the list.
    pub(super) fn living(&self) -> std::collections::BTreeSet<String> {
        self.pods.iter().map(|pod| pod.id.to_string()).collect()
    }

    /// Stops all that run.
    pub(super) async fn stop(&mut self) -> Result<()> {
        self.pods.iter().for_each(|pod| pod.provider.process().terminate());
        for pod in &self.pods {
            self.ended.push(pod.provider.stopped(STOP).await?);
        }
        Ok(())
    }
}

/// What a platform knows of a process: where it listens.
fn listed(addr: SocketAddr) -> Result<Instance> {
    let id = InstanceId::new(format!("pod-{}", addr.port()))?;
    let mut instance = Instance::with_id(ServiceName::new(SERVICE)?, id);
    instance.origin = Origin::Foreign;
    instance.start_time = None;
    instance.endpoints = vec![format!("http://{addr}").parse()?, format!("grpc://{addr}").parse()?];
    Ok(instance)
}
