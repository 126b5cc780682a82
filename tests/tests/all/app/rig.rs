//! Apps inside the test, and processes beside it.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use axum::{
    Router,
    extract::{Path as Segment, State},
    routing::get,
};
use meshwork::{App, Channel, Handle, Problem, Report, RunError};
use meshwork_testkit::{ports::Port, process::Process};
use meshwork_tests::{ENVIRONMENT, SERVICE, users::Directory};
use orders::users::{GetUser, users_client::UsersClient, users_server::UsersServer};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};

/// No step of a test takes longer.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);

/// The binary that stands in for an author's service.
pub(crate) fn actor() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_actor"))
}

/// An app with a name and nothing else set, on a free port of this machine.
pub(crate) fn app(name: &str) -> App {
    unnamed().with_config(format!("[service]\nname = {name:?}\n"))
}

/// An app with nothing set.
pub(crate) fn unnamed() -> App {
    App::new().with_environment(ENVIRONMENT)
}

/// The service that is called, over HTTP and gRPC. `name` is in its answers.
pub(crate) fn users(app: App, name: &str) -> App {
    let stopping = app.handle().stopping();
    let who = name.to_owned();
    let http = Router::new()
        .route("/who", get(move || async move { who }))
        .route("/hang", get(|| async { std::future::pending::<String>().await }));
    app.http(http).grpc(UsersServer::new(Directory::new(name, stopping)))
}

/// The ten lines: a route that calls the other service by its generated client, and one that does so by HTTP.
pub(crate) fn orders(app: App) -> App {
    let users = app.channel(SERVICE);
    let http = Router::new().route("/orders/{id}", get(order)).route("/who", get(who)).with_state(users);
    app.http(http)
}

async fn order(State(users): State<Channel>, Segment(id): Segment<u64>) -> Result<String, Problem> {
    let mut users = UsersClient::new(users);
    Ok(users.get(GetUser { id }).await?.into_inner().name)
}

async fn who(State(users): State<Channel>) -> Result<String, Problem> {
    Ok(users.get("/who").send().await?.text().await?)
}

/// A directory with one configuration file.
pub(crate) struct Files(TempDir);

impl Files {
    /// With this content of `default.toml`.
    pub(crate) fn with(text: &str) -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.say(text);
        files
    }

    /// Writes it anew, as an editor does it: under another name, then in its place.
    pub(crate) fn say(&self, text: &str) {
        let new = self.0.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.0.path().join("default.toml")).unwrap();
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// An app that serves.
pub(crate) struct Running {
    pub(crate) handle: Handle,
    task: JoinHandle<Result<Report, RunError>>,
}

impl Running {
    /// Starts it and waits until it serves.
    pub(crate) async fn start(app: App) -> Self {
        let mut started = Self::launch(app);
        let serving = timeout(LIMIT, started.handle.serving()).await.expect("it starts or fails in time");
        if !serving {
            panic!("it does not serve: {:?}", (&mut started.task).await);
        }
        started
    }

    /// Starts it without waiting.
    pub(crate) fn launch(app: App) -> Self {
        let handle = app.handle();
        let task = tokio::spawn(app.serve_until(std::future::pending()));
        Self { handle, task }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.handle.local_addr().expect("it serves, so it is bound")
    }

    /// Its end, without asking for it.
    pub(crate) async fn ended(self) -> Result<Report, RunError> {
        timeout(LIMIT, self.task).await.expect("it ends in time").expect("it does not panic")
    }

    pub(crate) async fn stop(self) -> Report {
        self.handle.stop();
        self.ended().await.expect("it had started")
    }
}

/// How a process that cannot go on ended, and what it said on the way.
pub(crate) async fn ended(process: &Process) -> (Option<i32>, String) {
    let status = process.ended(LIMIT).await.unwrap();
    (status.code(), process.stderr().join("\n"))
}

/// A free port that stays ours.
pub(crate) fn port() -> Port {
    Port::claim().unwrap()
}
