//! The service that is measured while it starts and while nothing happens: one route and one gRPC service, handed to
//! an `App` as it is. All else it takes from its configuration, as any service does.

#[path = "../grpc/echo.rs"]
#[expect(dead_code, reason = "the clients' side is for the experiments that call")]
mod echo;

use std::process::ExitCode;

use axum::{Router, routing::get};
use meshwork::App;
use rustix::process::{Signal, set_parent_process_death_signal};

#[tokio::main]
async fn main() -> ExitCode {
    // It must not outlive its experiment, however that ends.
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("greeter: {error}");
        return ExitCode::FAILURE;
    }
    let http = Router::new().route("/hello", get(|| async { "hello" }));
    App::new().http(http).grpc(echo::Echo).run().await
}
