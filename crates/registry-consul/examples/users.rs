//! Announces one instance of `users` at a Consul agent and prints who else is there, until Ctrl-C.
//!
//! `cargo run -p meshwork-registry-consul --example users -- http://127.0.0.1:8500`

use std::{env, error::Error};

use meshwork_core::{Backend, Instance, Query, ServiceName};
use meshwork_registry_consul::Consul;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let agent = env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8500".to_owned());
    let parts = Consul::new(agent).open()?;
    let (registry, discovery) =
        (parts.registry.ok_or("consul announces")?, parts.discovery.ok_or("consul finds")?);
    let name = ServiceName::new("users")?;
    let mut users = Instance::new(name.clone());
    users.env = "dev".into();
    users.zone = "zone1".into();
    users.endpoints.push("http://127.0.0.1:8080".parse()?);
    let registration = registry.register(users);
    registration.live().await?;
    println!("announced {}", registration.id());

    let mut watch = discovery.watch(&Query::new(name));
    loop {
        let view = tokio::select! {
            view = watch.changed() => view,
            stop = tokio::signal::ctrl_c() => {
                stop?;
                break;
            }
        };
        println!("{} known:", view.value().len());
        for users in view.value().iter() {
            println!("  {} at {}, {}", users.id, users.endpoints[0], users.status.as_str());
        }
    }
    registration.deregister().await?;
    println!("left");
    Ok(())
}
