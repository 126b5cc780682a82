//! The client processes: rounds of calls on order, over our channel or over tonic's.

use std::{
    io::BufRead,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use bytes::Bytes;
use meshwork_core::{BoxError, Watch};
use tonic::{
    body::Body,
    client::{Grpc, GrpcService},
};

use super::{
    Order,
    echo::{self, Payload},
    server,
};
use crate::cpu;

/// Whose channel.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    Ours,
    Tonic,
}

/// Takes orders from the input and prints the figures of each, until the input ends.
pub(crate) fn serve_rounds(kind: Kind, addr: &str) -> Result<(), BoxError> {
    let addr: SocketAddr = addr.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match kind {
        Kind::Ours => {
            let instance = Arc::new(server::instance(addr)?);
            let service = instance.service.clone();
            let channel = runtime.block_on(async {
                let watch = Watch::fixed(Arc::from([instance]));
                let channel = meshwork_client::Channel::new(service, watch, Default::default());
                channel.ready().await?;
                Ok::<_, BoxError>(channel)
            })?;
            obey(&runtime, &channel)
        }
        Kind::Tonic => {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{addr}"))?;
            let channel = runtime.block_on(endpoint.connect())?;
            obey(&runtime, &channel)
        }
    }
}

fn obey<T>(runtime: &tokio::runtime::Runtime, channel: &T) -> Result<(), BoxError>
where
    T: GrpcService<Body> + Clone + Send + 'static,
    T::Future: Send,
    T::ResponseBody: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    for line in std::io::stdin().lock().lines() {
        let figures = line?.split(' ').map(str::parse).collect::<Result<Vec<usize>, _>>()?;
        let [concurrency, calls, bytes] = figures[..] else {
            return Err("an order has three figures".into());
        };
        let order = Order { concurrency, calls, bytes };
        let (cpu, began) = (cpu::of_process(), Instant::now());
        runtime.block_on(round(channel, order))?;
        let per_call = |seconds: f64| seconds * 1e6 / calls as f64;
        let cpu = per_call((cpu::of_process() - cpu).as_secs_f64());
        println!("{cpu} {}", per_call(began.elapsed().as_secs_f64()));
    }
    Ok(())
}

async fn round<T>(channel: &T, order: Order) -> Result<(), BoxError>
where
    T: GrpcService<Body> + Clone + Send + 'static,
    T::Future: Send,
    T::ResponseBody: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let begun = Arc::new(AtomicUsize::new(0));
    let payload = Payload::of(order.bytes);
    let callers: Vec<_> = (0..order.concurrency)
        .map(|_| {
            let (begun, payload) = (Arc::clone(&begun), payload.clone());
            let mut client = Grpc::new(channel.clone());
            tokio::spawn(async move {
                while begun.fetch_add(1, Relaxed) < order.calls {
                    echo::call(&mut client, payload.clone()).await?;
                }
                Ok::<_, tonic::Status>(())
            })
        })
        .collect();
    for caller in callers {
        caller.await??;
    }
    Ok(())
}
