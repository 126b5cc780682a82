//! Apps inside the test, the story that their parts tell, and waiting with a limit.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, routing::get};
use meshwork::{App, Component, Handle, Memory, Report, RunError, ServiceName};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

/// No step of a test takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// The service of these tests.
pub(crate) const NAME: &str = "orders";

/// An app of one route at a free port, announced in `memory`, with short times.
pub(crate) fn app(memory: &Memory) -> App {
    App::new()
        .with_environment("test")
        .with_config_dir("/nowhere")
        .with_config(format!("[service]\nname = {NAME:?}\n[drain]\nsettle = \"50ms\"\ndeadline = \"3s\"\n"))
        .with_registry(memory.clone())
        .http(Router::new().route("/", get(|| async { "hello" })))
}

/// How many instances are announced.
pub(crate) fn announced(memory: &Memory) -> usize {
    memory.instances(&ServiceName::new(NAME).unwrap()).len()
}

/// What happened, in order.
#[derive(Clone, Default)]
pub(crate) struct Story(Arc<Mutex<Vec<String>>>);

impl Story {
    pub(crate) fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    pub(crate) fn told(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// A component that tells of its start and its stop.
    pub(crate) fn component(&self, name: &'static str) -> Component {
        let (start, stop) = (self.clone(), self.clone());
        Component::new(name)
            .start(move |_| async move { start.note(format!("{name} starts")) })
            .stop(move |_| async move { stop.note(format!("{name} stops")) })
    }

    /// A hook that tells of itself.
    pub(crate) fn hook(
        &self,
        what: &'static str,
    ) -> impl FnOnce(Handle) -> std::future::Ready<()> + Send + use<> {
        let story = self.clone();
        move |_| {
            story.note(what);
            std::future::ready(())
        }
    }
}

/// An app that runs.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    task: JoinHandle<Result<Report, RunError>>,
}

impl Running {
    pub(crate) fn launch(app: App) -> Self {
        let handle = app.handle();
        Self { handle, task: tokio::spawn(app.serve_until(std::future::pending())) }
    }

    /// Starts it and waits until it serves.
    pub(crate) async fn start(app: App) -> Self {
        let running = Self::launch(app);
        assert!(timeout(LIMIT, running.handle.serving()).await.unwrap(), "it serves");
        running
    }

    /// Its end, without asking for it.
    pub(crate) async fn ended(self) -> Result<Report, RunError> {
        timeout(LIMIT, self.task).await.expect("it ends in time").expect("it does not panic")
    }

    pub(crate) async fn stop(self) -> Report {
        self.handle.stop();
        self.ended().await.unwrap()
    }
}

/// Panics.
pub(crate) fn falls(message: &str) {
    panic!("{message}");
}

/// Waits until `is_true`.
pub(crate) async fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !is_true() {
        assert!(Instant::now() < limit, "not in time: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
