//! The server process: our server with its defaults, which all clients call.

use std::{io::Read, net::SocketAddr};

use meshwork_core::{BoxError, Instance, InstanceId, ServiceName};
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services};
use meshwork_testkit::ports::Port;

use super::echo::Echo;
use crate::cpu::Seat;

/// The `nth` instance that the server is.
pub(super) fn instance(nth: usize, addr: SocketAddr) -> Result<Instance, BoxError> {
    let id = InstanceId::new(format!("echo-bench-{nth}"))?;
    let mut instance = Instance::with_id(ServiceName::new("echo")?, id);
    instance.endpoints = vec![format!("grpc://{addr}").parse()?];
    Ok(instance)
}

/// So many instances in one process: prints their addresses and serves until its input ends.
pub(crate) fn run(count: usize) -> Result<(), BoxError> {
    Seat::Server.take();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut all, mut addrs) = (Vec::new(), Vec::new());
        for nth in 0..count {
            let port = Port::claim()?;
            let listener = Listener::bind(port.addr()).await?;
            let addr = listener.local_addr();
            let own = instance(nth, addr)?;
            let identity = Identity::new();
            identity.set([(&own.service, &own.id)]);
            let server = Server::new(ServerConfig::default(), identity, Health::new());
            all.push((server.serve(listener, Services::new().grpc_service(Echo)), port));
            addrs.push(addr.to_string());
        }
        println!("{}", addrs.join(" "));
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
        all.into_iter().for_each(|(serving, _port)| serving.abort());
        Ok(())
    })
}
