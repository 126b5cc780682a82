//! One greeter process: an axum router handed to an `App`.

use std::process::ExitCode;

use axum::{Json, Router, routing::get};
use meshwork::{App, Handle};
use tokio::io::AsyncReadExt;

use crate::score::Greeting;

/// Serves until a signal comes or the parent is gone.
pub(crate) async fn run(zone: String, version: String) -> ExitCode {
    let me = Greeting { pid: std::process::id(), zone: zone.clone(), version: version.clone() };
    let hello = Router::new().route("/hello", get(move || async move { Json(me) }));
    let app = App::new().http(hello).warm_up(|handle: Handle| async move {
        handle.update(move |instance| {
            instance.zone = zone.into();
            instance.app_version = version.into();
            instance.labels.set("pid", std::process::id().to_string());
        });
    });
    tokio::spawn(end_with_parent(app.handle()));
    app.run().await
}

/// The parent holds our standard input open for as long as it lives.
async fn end_with_parent(handle: Handle) {
    let mut byte = [0];
    while matches!(tokio::io::stdin().read(&mut byte).await, Ok(1)) {}
    handle.stop();
}
