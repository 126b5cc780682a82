//! A process that watches many services in etcd and has a channel to each, while nothing happens.

use std::time::{Duration, Instant};

use meshwork_client::{Channel, ClientConfig};
use meshwork_core::{Backend, BoxError, Dialect, Instance, Native, Query, ServiceName};
use meshwork_registry_etcd::Etcd;
use meshwork_testkit::etcd;
use tokio::time;

use crate::{cpu, fleet, verdict::Mode};

pub(super) const SERVICES: usize = 1_000;
const ENV: &str = "bench";
/// What comes first answers, and calms down.
const SETTLE: Duration = Duration::from_secs(5);
const WITHIN: Duration = Duration::from_secs(60);

/// Percent of a core.
pub(super) fn measure(mode: Mode) -> Result<f64, BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (services, settle, length) =
        mode.of((SERVICES, SETTLE, Duration::from_secs(60)), (20, Duration::ZERO, Duration::from_secs(1)));
    runtime.block_on(async {
        let server = etcd::Etcd::single().start().await?;
        let endpoints = server.endpoints();
        let native = Native::new("meshwork")?;
        let mut client = etcd_client::Client::connect(&endpoints, None).await?;
        let mut names = Vec::new();
        for index in 0..services {
            let name = ServiceName::new(format!("service-{index}"))?;
            let mut instance = Instance::new(name.clone());
            instance.endpoints = fleet::instance(index)?.endpoints;
            let records = native.encode(ENV, &instance, 0).map_err(|refusal| refusal.to_string())?;
            for (key, value) in records {
                client.put(key, value, None).await?;
            }
            names.push(name);
        }
        let parts = Etcd::new(endpoints).with_env(ENV).open()?;
        let discovery = parts.discovery.ok_or("etcd finds nothing")?;
        let channels: Vec<Channel> = names
            .iter()
            .map(|name| {
                let watch = discovery.watch(&Query::new(name.clone()));
                Channel::new(name.clone(), watch, ClientConfig::default())
            })
            .collect();
        time::timeout(WITHIN, async {
            for name in &names {
                discovery.watch(&Query::new(name.clone())).ready().await;
            }
        })
        .await?;
        time::sleep(settle).await;
        let (cpu, began) = (cpu::of_process(), Instant::now());
        time::sleep(length).await;
        let used = (cpu::of_process() - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
        drop(channels);
        Ok(used * 100.0)
    })
}
