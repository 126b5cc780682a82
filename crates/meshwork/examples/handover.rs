//! A restart on one machine that refuses nobody: start it, start it again, and the second takes the port over.
//!
//! ```text
//! cargo build -p meshwork --example handover
//! target/debug/examples/handover &
//! while curl -s http://127.0.0.1:8080/; do sleep 0.1; done &      # goes on through all of this
//! target/debug/examples/handover &                                # says who it took over from; the first leaves
//! ```

use std::{env, process};

use axum::{Router, routing::get};
use meshwork::{App, BoxError};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let socket = env::temp_dir().join("handover-example.sock");
    let app = App::new().with_config(format!(
        "[service]\nname = \"hello\"\nhttp = \"127.0.0.1:8080\"\nhandover = {socket:?}\n[drain]\nsettle = \"2s\"\n"
    ));
    let hello = get(|| async { format!("hello from process {}\n", process::id()) });
    let report = app.http(Router::new().route("/", hello)).serve().await?;
    println!("{report}");
    Ok(())
}
