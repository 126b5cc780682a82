//! The process of all nodes: each listens on a port of its own.

use std::net::SocketAddr;

use meshwork_core::{BoxError, Instance, InstanceId, ServiceName};
use meshwork_server::{Health, Identity, Listener, Server, ServerConfig, Services};
use meshwork_testkit::ports::Port;

use super::work::Node;

/// The node at this address.
pub(super) fn instance(addr: SocketAddr) -> Result<Instance, BoxError> {
    let id = InstanceId::new(format!("node-{}", addr.port()))?;
    let mut instance = Instance::with_id(ServiceName::new("node")?, id);
    instance.endpoints = vec![format!("grpc://{addr}").parse()?];
    Ok(instance)
}

/// Prints the addresses of so many nodes, and serves until the process is ended.
pub(super) async fn serve(count: usize) -> Result<(), BoxError> {
    let (mut all, mut addrs) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let port = Port::claim()?;
        let own = instance(port.addr())?;
        let identity = Identity::new();
        identity.set([(&own.service, &own.id)]);
        let server = Server::new(ServerConfig::default(), identity, Health::new());
        let services = Services::new().grpc_service(Node::default());
        all.push(server.serve(Listener::bind(port.addr()).await?, services));
        addrs.push((port.addr().to_string(), port));
    }
    println!("{}", addrs.iter().map(|(addr, _)| addr.as_str()).collect::<Vec<_>>().join(" "));
    std::future::pending().await
}
