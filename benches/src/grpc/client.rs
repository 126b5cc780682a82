//! The client processes.

use std::{net::SocketAddr, num::NonZeroU32, sync::Arc};

use bytes::Bytes;
use meshwork_client::{Channel, ClientConfig};
use meshwork_core::{BoxError, Watch};
use tonic::{
    body::Body,
    client::{Grpc, GrpcService},
    transport::Endpoint,
};

use super::{
    echo::{self, Payload},
    server,
};
use crate::{
    cpu::Seat,
    duel::{Caller, Sockets, obey},
};

/// Whose channel, and how it is set up.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// Ours with its defaults.
    Ours,
    /// Ours with all that a call can be given: it may be tried again and hedged, and there are limits.
    Full,
    Tonic,
}

/// Calls the servers at `addrs` on order, until the input ends.
pub(crate) fn run(kind: Kind, addrs: &[&str]) -> Result<(), BoxError> {
    Seat::Client.take();
    let addrs = addrs.iter().map(|addr| addr.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let before = runtime.block_on(async { Sockets::before() });
    match kind {
        Kind::Ours => {
            let channel = runtime.block_on(ours(&addrs, ClientConfig::default()))?;
            obey(&runtime, &before, |bytes| Calls::new(&channel, bytes))
        }
        Kind::Full => {
            let mut config = ClientConfig::default();
            config.hedge = true;
            config.limit.concurrency = NonZeroU32::new(1024);
            config.limit.rate = NonZeroU32::new(1_000_000);
            let channel = runtime.block_on(ours(&addrs, config))?.idempotent();
            obey(&runtime, &before, |bytes| Calls::new(&channel, bytes))
        }
        Kind::Tonic => {
            let addr = addrs.first().ok_or("tonic's channel is to one address")?;
            let endpoint = Endpoint::from_shared(format!("http://{addr}"))?;
            let channel = runtime.block_on(endpoint.connect())?;
            obey(&runtime, &before, |bytes| Calls::new(&channel, bytes))
        }
    }
}

async fn ours(addrs: &[SocketAddr], config: ClientConfig) -> Result<Channel, BoxError> {
    let instances = addrs.iter().enumerate().map(|(nth, addr)| Ok(Arc::new(server::instance(nth, *addr)?)));
    let instances = instances.collect::<Result<Vec<_>, BoxError>>()?;
    let service = instances.first().ok_or("there is an address")?.service.clone();
    let channel = Channel::new(service, Watch::fixed(Arc::from(instances)), config);
    channel.ready().await?;
    Ok(channel)
}

struct Calls<T> {
    client: Grpc<T>,
    payload: Payload,
}

impl<T: Clone> Calls<T> {
    fn new(channel: &T, bytes: usize) -> Self {
        Self { client: Grpc::new(channel.clone()), payload: Payload::of(bytes) }
    }
}

impl<T> Caller for Calls<T>
where
    T: GrpcService<Body> + Send + 'static,
    T::Future: Send,
    T::ResponseBody: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    async fn call(&mut self) -> Result<(), BoxError> {
        echo::call(&mut self.client, self.payload.clone()).await?;
        Ok(())
    }
}
