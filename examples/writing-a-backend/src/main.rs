//! Two processes in one: a user announces himself on a board, a caller sees him come, change and go.

use std::time::Duration;

use meshwork_core::{Backend, BoxError, Instance, Query, ServiceName};
use tokio::time;
use writing_a_backend::{Board, server::Store};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let addr = "127.0.0.1:7411".parse()?;
    let _server = Store::default().serve(addr).await?;
    let (provider, caller) = (Board::new(addr).open()?, Board::new(addr).open()?);
    println!("{}", caller.description);

    let users = ServiceName::new("users")?;
    let mut watch = caller.discovery.ok_or("a board finds")?.watch(&Query::new(users.clone()));
    let seeing = tokio::spawn(async move {
        while let Ok(view) = time::timeout(Duration::from_secs(1), watch.changed()).await {
            let seen: Vec<_> =
                view.value().iter().map(|i| format!("{} {}", i.weight, i.status.as_str())).collect();
            println!("generation {}: {seen:?}", view.generation());
        }
    });

    let mut instance = Instance::new(users);
    instance.endpoints.push("http://127.0.0.1:8080".parse()?);
    let registration = provider.registry.ok_or("a board announces")?.register(instance);
    registration.live().await?;
    time::sleep(Duration::from_millis(100)).await;
    registration.update(|instance| instance.weight = 7);
    time::sleep(Duration::from_millis(100)).await;
    registration.deregister().await?;
    seeing.await?;
    Ok(())
}
