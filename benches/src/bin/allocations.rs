//! `allocations`: how often a unary gRPC call allocates in the client, over our channel and over tonic's.
//!
//! A binary of its own, because its allocator counts, which would slow the others down. What one thread allocates is
//! counted: the whole client runs on it, the server on another.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
};

use bytes::Bytes;
use meshwork_client::{Channel, ClientConfig};
use meshwork_core::{BoxError, Instance, InstanceId, ServiceName, Watch};
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services};
use meshwork_testkit::ports::Port;
use tokio::{runtime::Runtime, sync::oneshot};
use tonic::{
    body::Body,
    client::{Grpc, GrpcService},
    transport::Endpoint,
};

use crate::echo::{Echo, Payload};

#[path = "../grpc/echo.rs"]
mod echo;

const CALLS: u64 = 500;
const SIZES: [usize; 2] = [64, 1024];

fn main() -> ExitCode {
    match measure() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("A1: {error}");
            ExitCode::from(2)
        }
    }
}

fn measure() -> Result<String, BoxError> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (told, addr) = mpsc::channel();
    let server = thread::spawn(move || serve(&told, stopped).map_err(|error| error.to_string()));
    let addr = addr.recv()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let channel = runtime.block_on(channel(addr))?;
    let tonic = runtime.block_on(Endpoint::from_shared(format!("http://{addr}"))?.connect())?;
    let mut texts = Vec::new();
    for bytes in SIZES {
        let (ours, of_ours) = count(&runtime, &channel, bytes)?;
        let (theirs, of_theirs) = count(&runtime, &tonic, bytes)?;
        texts.push(format!("{bytes} B: {ours:.1} / {theirs:.1} ({of_ours:.0} / {of_theirs:.0} bytes)"));
    }
    drop(stop);
    server.join().map_err(|_| "the server panicked")??;
    Ok(format!("A1 allocations per unary gRPC call, our Channel / raw tonic Channel: {}", texts.join("; ")))
}

/// Allocations and their bytes per call.
fn count<T>(runtime: &Runtime, channel: &T, bytes: usize) -> Result<(f64, f64), BoxError>
where
    T: GrpcService<Body> + Clone,
    T::ResponseBody: tonic::codegen::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let mut client = Grpc::new(channel.clone());
    let payload = Payload::of(bytes);
    let mut calls = |count: u64| {
        runtime.block_on(async {
            for _ in 0..count {
                echo::call(&mut client, payload.clone()).await?;
            }
            Ok::<_, tonic::Status>(())
        })
    };
    calls(CALLS)?;
    let mut ended = Ok(());
    let counted = allocation_counter::measure(|| ended = calls(CALLS));
    ended?;
    let per_call = |all: u64| all as f64 / CALLS as f64;
    Ok((per_call(counted.count_total), per_call(counted.bytes_total)))
}

fn instance(addr: SocketAddr) -> Result<Instance, BoxError> {
    let mut instance = Instance::with_id(ServiceName::new("echo")?, InstanceId::new("echo-bench")?);
    instance.endpoints = vec![format!("grpc://{addr}").parse()?];
    Ok(instance)
}

async fn channel(addr: SocketAddr) -> Result<Channel, BoxError> {
    let instance = Arc::new(instance(addr)?);
    let service = instance.service.clone();
    let channel = Channel::new(service, Watch::fixed(Arc::from([instance])), ClientConfig::default());
    channel.ready().await?;
    Ok(channel)
}

fn serve(told: &mpsc::Sender<SocketAddr>, stopped: oneshot::Receiver<()>) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let port = Port::claim()?;
        let listener = Listener::bind(port.addr()).await?;
        let addr = listener.local_addr();
        let (own, identity) = (instance(addr)?, Identity::new());
        identity.set([(&own.service, &own.id)]);
        let server = Server::new(ServerConfig::default(), identity, Health::new());
        let serving = server.serve(listener, Services::new().grpc_service(Echo));
        told.send(addr)?;
        let _dropped = stopped.await;
        serving.abort();
        Ok(())
    })
}
