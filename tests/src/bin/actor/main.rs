//! A service on the facade, as an author would write it, to be started, killed and counted by tests.
//!
//! `actor provider` serves and says its [`Event`]s; `actor run` is the same under `App::run`, for its exit
//! codes. Everything else is configuration: `MESHWORK__*` for the framework, `ACTOR_*` for the parts below.

mod handlers;
mod sleeps;

use std::{env, process::ExitCode, sync::Arc};

use meshwork::{App, Handle};
use meshwork_tests::{
    behave::Conduct,
    event::{Event, Ready, Stopped},
    users::Directory,
};
use orders::users::users_server::UsersServer;

use crate::handlers::router;

#[tokio::main]
async fn main() -> ExitCode {
    let conduct = Arc::<Conduct>::default();
    let app = app(Arc::clone(&conduct));
    match env::args().nth(1).as_deref() {
        Some("provider") => provider(app, &conduct).await,
        Some("run") => app.run().await,
        other => {
            eprintln!("error: the role is `provider` or `run`, not {other:?}");
            ExitCode::from(64)
        }
    }
}

/// HTTP and gRPC, and hooks as the variables say.
fn app(conduct: Arc<Conduct>) -> App {
    let app = App::new().with_build(meshwork::build_info!());
    let stopping = app.handle().stopping();
    let next = env::var("ACTOR_NEXT").ok().map(|service| app.channel(&service));
    // Answers say which process they come from.
    let directory = Directory::new(std::process::id().to_string(), stopping);
    let directory = directory.with_conduct(Arc::clone(&conduct)).before(next);
    let app = app.http(router(conduct)).grpc(UsersServer::new(directory));
    match env::var("ACTOR_WARM_UP").as_deref() {
        Ok("fail") => app.warm_up(|_| async { Err::<(), _>("cache has no room") }),
        _ => app,
    }
}

async fn provider(app: App, conduct: &Conduct) -> ExitCode {
    let app = app.on_serving(|handle: Handle| async move {
        let id = handle.instance().map(|instance| instance.id.to_string()).unwrap_or_default();
        Event::Ready(Ready { addrs: handle.local_addrs(), id, pid: std::process::id() }).say();
    });
    match sleeps::added(app).serve().await {
        Ok(report) => {
            Event::Stopped(Stopped {
                code: report.code(),
                cause: report.cause.to_string(),
                took_ms: u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
                finished: report.finished,
                cut: report.cut.clone(),
                faults: report.faults.clone(),
                served: conduct.served(),
            })
            .say();
            ExitCode::from(&report)
        }
        Err(error) => {
            Event::Failed { code: error.code(), error: format!("{error:?}") }.say();
            ExitCode::from(&error)
        }
    }
}
