//! The server process: our server with its defaults, which both clients call.

use std::{io::Read, net::SocketAddr};

use meshwork_core::{BoxError, Instance, InstanceId, ServiceName};
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services};
use meshwork_testkit::ports::Port;

use super::echo::Echo;

/// The instance that the server is.
pub(super) fn instance(addr: SocketAddr) -> Result<Instance, BoxError> {
    let mut instance = Instance::with_id(ServiceName::new("echo")?, InstanceId::new("echo-bench")?);
    instance.endpoints = vec![format!("grpc://{addr}").parse()?];
    Ok(instance)
}

/// Prints its address and serves until its input ends.
pub(crate) fn run() -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let port = Port::claim()?;
        let listener = Listener::bind(port.addr()).await?;
        let addr = listener.local_addr();
        let own = instance(addr)?;
        let identity = Identity::new();
        identity.set([(&own.service, &own.id)]);
        let server = Server::new(ServerConfig::default(), identity, Health::new());
        let serving = server.serve(listener, Services::new().grpc_service(Echo));
        println!("{addr}");
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
        serving.abort();
        Ok(())
    })
}
