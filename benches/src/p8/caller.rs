//! The process of one caller.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use meshwork_client::{Channel, ClientConfig, ConnectionState, Limit, balance::RoundRobin};
use meshwork_core::{BoxError, Watch};
use meshwork_testkit::{load::Load, truth::eventually};
use tonic::{
    body::Body,
    client::{Grpc, GrpcService},
};

use super::{LIMIT, node, peer::Tower, work};

/// What it says before it calls.
pub(super) const READY: &str = "ready";
const DEADLINE: Duration = Duration::from_secs(5);

/// Calls as planned, and prints median, 99th percentile (milliseconds) and failures.
pub(super) async fn call(kind: &str, plan: Load, addrs: &[&str]) -> Result<(), BoxError> {
    let addrs = addrs.iter().map(|addr| addr.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let mut config = ClientConfig::default();
    config.timeout = Some(Limit::new(DEADLINE, "the experiment"));
    match kind {
        "ours" => load(ours(&addrs, config).await?, plan).await,
        "round-robin" => {
            config.policy = Arc::new(RoundRobin::default());
            load(ours(&addrs, config).await?, plan).await;
        }
        "tower" => load(Tower::connect(&addrs, DEADLINE).await?, plan).await,
        other => return Err(format!("nobody calls by `{other}`").into()),
    }
    Ok(())
}

/// Our channel, connected to all.
async fn ours(addrs: &[SocketAddr], config: ClientConfig) -> Result<Channel, BoxError> {
    let instances = addrs.iter().map(|addr| Ok(Arc::new(node::instance(*addr)?)));
    let instances = instances.collect::<Result<Vec<_>, BoxError>>()?;
    let service = instances.first().ok_or("there is a node")?.service.clone();
    let channel = Channel::new(service, Watch::fixed(Arc::from(instances)), config);
    channel.ready().await?;
    let all = || async { channel.nodes().iter().all(|node| node.state == ConnectionState::Connected) };
    eventually(LIMIT, "all nodes are connected", all).await?;
    Ok(channel)
}

async fn load<T>(service: T, plan: Load)
where
    T: GrpcService<Body> + Clone + Send + Sync + 'static,
    T::Future: Send,
    T::ResponseBody: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    println!("{READY}");
    let client = Grpc::new(service);
    let report = plan.run(move |_| {
        let mut client = client.clone();
        async move { work::call(&mut client, work::Order::work()).await }
    });
    let report = report.await;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    println!("{:.1} {:.1} {}", ms(report.p50()), ms(report.p99()), report.failed());
}
