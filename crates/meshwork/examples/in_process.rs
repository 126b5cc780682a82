//! An app without a port: what a test of a handler looks like, and two apps that serve in one process.
//!
//! `cargo run -p meshwork --example in_process`

use axum::{Router, body::Body, http::Request, routing::get};
use meshwork::{App, BoxError, Memory};
use tower::ServiceExt;

fn users(registry: &Memory) -> App {
    App::new()
        .with_environment("test")
        .with_config("[service]\nname = \"users\"")
        .with_registry(registry.clone())
        .http(Router::new().route("/users/7", get(|| async { "Ada" })))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let registry = Memory::new();

    // One call, through layers, limits and deadline, and no socket.
    let service = users(&registry).into_service()?;
    let answer = service.oneshot(Request::get("/users/7").body(Body::empty())?).await?;
    assert_eq!(answer.status(), 200);

    // Two apps in one process, found by name, stopped without a signal.
    let orders = App::new()
        .with_environment("test")
        .with_config("[service]\nname = \"orders\"")
        .with_registry(registry.clone());
    let channel = orders.channel("users");
    let orders = orders.http(Router::new().route(
        "/orders/1",
        get(move || async move {
            let customer = channel.get("/users/7").send().await?.text().await?;
            Ok::<_, meshwork::Problem>(format!("an order of {customer}"))
        }),
    ));
    let users = users(&registry);
    let (first, second) = (users.handle(), orders.handle());
    let calls = async {
        first.serving().await;
        second.serving().await;
        let answer = second.channel("orders")?.get("/orders/1").send().await?.text().await?;
        println!("{answer}");
        first.stop();
        second.stop();
        Ok::<_, BoxError>(())
    };
    let never = std::future::pending;
    let (users, orders, called) =
        tokio::join!(users.serve_until(never()), orders.serve_until(never()), calls);
    called?;
    println!("{}\n{}", users?, orders?);
    Ok(())
}
