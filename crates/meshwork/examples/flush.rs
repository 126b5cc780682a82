//! Telemetry leaves last: whatever a provider still holds is sent after the last call, and a collector that does not answer
//! delays the end by `drain.flush` at most.
//!
//! `cargo run -p meshwork --example flush`, then Ctrl-C.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use axum::{Router, routing::get};
use meshwork::{App, BoxError};

/// As a batching exporter: spans go to a thread, and `shutdown` blocks until it has sent them.
struct Traces {
    spans: mpsc::Sender<Option<&'static str>>,
    sent: std::sync::Mutex<mpsc::Receiver<usize>>,
}

impl Traces {
    fn begin() -> Self {
        let (spans, received) = mpsc::channel();
        let (done, sent) = mpsc::channel();
        thread::spawn(move || {
            let batch = received.iter().map_while(|span| span).count();
            // The collector is far away.
            thread::sleep(Duration::from_millis(200));
            done.send(batch)
        });
        Self { spans, sent: sent.into() }
    }

    fn span(&self, name: &'static str) {
        let _closed = self.spans.send(Some(name));
    }

    fn shutdown(&self) -> Result<usize, BoxError> {
        self.spans.send(None)?;
        Ok(self.sent.lock().map_err(|_| "poisoned")?.recv()?)
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let traces = Arc::new(Traces::begin());
    let (handler, last) = (traces.clone(), traces.clone());
    let hello = get(move || async move {
        handler.span("hello");
        "hello"
    });
    let app = App::new()
        .http(Router::new().route("/", hello))
        .on_stop(move |_| async move { traces.span("stop") })
        .on_flush("traces", move |_| async move {
            println!("{} spans sent", last.shutdown()?);
            Ok::<_, BoxError>(())
        });
    app.serve().await?;
    Ok(())
}
