//! The service that is started and stopped; its role says what it does wrong.

use std::{future::pending, process::ExitCode, thread, time::Duration};

use axum::{Router, routing::get};
use meshwork::{App, Component};
use tokio::runtime;

/// The variable that makes this program a service.
pub(crate) const ROLE: &str = "LIFE_ROLE";

/// As `#[tokio::main]` makes it, with two workers.
pub(crate) fn main(role: &str) -> ExitCode {
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(serve(role))
}

async fn serve(role: &str) -> ExitCode {
    let routes =
        Router::new().route("/", get(|| async { "hello" })).route("/block", get(|| async { block() }));
    if role == "two apps" {
        return two().await;
    }
    let app = App::new()
        .with_environment("test")
        .with_config_dir("/nowhere")
        .with_config("[service]\nname = \"life\"\n[registry]\nuse = \"none\"\n")
        .with_config("[drain]\nsettle = \"100ms\"\ndeadline = \"2s\"\n")
        .http(routes)
        .component(
            Component::new("database")
                .start(|_| async { println!("database starts") })
                .stop(|_| async { println!("database stops") }),
        )
        .job("migrate", |_| async { println!("migrated") })
        .job("broken", |_| async { Err::<(), _>("row 7 is broken") });
    let app = app.on_serving(|handle| async move {
        println!("serving at {}", handle.local_addr().expect("it is bound"));
    });
    let app = match role {
        "slow start" => app.component(Component::new("vault").start(|_| async {
            println!("vault starts");
            pending::<()>().await;
        })),
        "blocking hook" => app.on_stop(|_| async {
            println!("hook blocks");
            thread::sleep(Duration::MAX);
        }),
        // Callers come and go all the while.
        "busy" => app.with_config("[drain]\nsettle = \"1s\"\ndeadline = \"10s\""),
        "cold" => app.warm_up(|_| async { Err::<(), _>("no cache") }),
        "frozen" => app.warm_up(|_| async {
            println!("warming up");
            pending::<()>().await;
        }),
        "dead collector" => app.on_flush("traces", |_| async {
            println!("flush blocks");
            thread::sleep(Duration::MAX);
        }),
        "panicking hook" => app.on_stop(|_| async { assert_eq!(1, 2, "out of luck") }),
        "late hook" => app.on_stop(|_| async {
            // Longer than the whole drain, and then it ends all the same.
            tokio::time::sleep(Duration::from_millis(2_300)).await;
            println!("hook was late");
        }),
        // What never yields, in a `main` that goes on after `serve`.
        "blocking component start" => {
            return ended(
                app.component(
                    Component::new("vault")
                        .start(|_| async { block() })
                        .start_timeout(Duration::from_millis(300)),
                ),
            )
            .await;
        }
        "blocking warm_up" => return ended(app.warm_up(|_| async { block() })).await,
        "blocking on_serving" => return ended(app.on_serving(|_| async { block() })).await,
        "blocking on_stop" => return ended(app.on_stop(|_| async { block() })).await,
        "blocking task" => return ended(app.task("outbox", |_| async { block() })).await,
        "blocking job" => return ended(app.job("hangs", |_| async { block() })).await,
        "blocking handler" => return ended(app).await,
        _ => app,
    };
    app.run().await
}

/// Two apps in one process: the second starts later and takes longer to stop.
async fn two() -> ExitCode {
    let app = |name: &'static str| {
        let says = move |what: &'static str| println!("{name} {what}");
        App::new()
            .with_environment("test")
            .with_config_dir("/nowhere")
            .with_config(format!("[service]\nname = \"{name}\"\n[registry]\nuse = \"none\"\n"))
            .with_config("[drain]\nsettle = \"100ms\"\ndeadline = \"10s\"\n")
            .http(Router::new().route("/", get(move || async move { name })))
            .on_serving(move |handle| async move {
                println!("{name} at {}", handle.local_addr().expect("it is bound"));
            })
            .on_stop(move |_| async move { says("stops") })
    };
    let slow =
        Component::new("slow").start(|_| tokio::time::sleep(Duration::from_millis(300))).stop(|_| async {
            // Longer than what `run` leaves `main`.
            tokio::time::sleep(Duration::from_millis(1_200)).await;
            println!("slow is put away");
        });
    let (one, two) = tokio::join!(app("one").run(), app("two").component(slow).run());
    if one == ExitCode::SUCCESS { two } else { one }
}

/// The end of a `main` that has more to do.
async fn ended(app: App) -> ExitCode {
    match app.serve().await {
        Ok(report) => {
            println!("{report}");
            ExitCode::from(&report)
        }
        Err(error) => {
            eprintln!("error: {error:?}");
            ExitCode::from(&error)
        }
    }
}

/// Never gives its thread back.
fn block() {
    println!("blocking");
    thread::sleep(Duration::MAX);
}
