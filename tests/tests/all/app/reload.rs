//! The configuration changes while the app runs.

use std::{fs, process::Command};

use meshwork::{App, Handle, RunError};
use meshwork_testkit::truth::eventually;
use meshwork_tests::{
    SERVICE, http1,
    provider::{Plan, Provider},
};
use serde::Deserialize;

use super::rig::{Files, LIMIT, Running, actor, app, users};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Orders {
    limit: u32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_section_of_the_authors_own_follows_its_file() {
    let files = Files::with("[orders]\nlimit = 1\n");
    let app = app(SERVICE).with_config_dir(files.path()).with_registry(meshwork::Memory::new());
    let mut orders = app.watch_config::<Orders>("orders").unwrap();
    assert_eq!(orders.changed().await.value().limit, 1);
    let running = Running::start(users(app, "Ada")).await;
    files.say("[orders]\nlimit = 2\n");
    let changed = tokio::time::timeout(LIMIT, orders.changed()).await.unwrap();
    assert!(changed.staleness().is_fresh());
    assert_eq!(changed.value().limit, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mistake_keeps_the_last_good_value_until_it_is_corrected() {
    let files = Files::with("[orders]\nlimit = 1\n");
    let app = app(SERVICE).with_config_dir(files.path()).with_registry(meshwork::Memory::new());
    let orders = app.watch_config::<Orders>("orders").unwrap();
    let running = Running::start(users(app, "Ada")).await;
    let mistakes = [
        "[orders]\nlmit = 2\n",
        "[orders]\nlimit = \n",
        "[registry.x]\nkind = \"zoo\"\n[orders]\nlimit = 2\n",
        "[drain]\nsetle = \"1s\"\n[orders]\nlimit = 2\n",
        "[registry.both]\nkind = \"dual\"\nprimary = \"local\"\nsecondary = \"local\"\n[orders]\nlimit = 2\n",
        "",
    ];
    for mistake in mistakes {
        files.say(mistake);
        let doubts = || async { !orders.latest().staleness().is_fresh() };
        eventually(LIMIT, "it says that it is in doubt", doubts)
            .await
            .unwrap_or_else(|e| panic!("{mistake}: {e}"));
        assert_eq!(orders.latest().value().limit, 1, "{mistake}");
        let error: RunError = running.handle.reload().await.unwrap_err();
        assert!(format!("{error:?}").contains("default.toml"), "{mistake}: {error:?}");
        files.say("[orders]\nlimit = 1\n");
        let trusts = || async { orders.latest().staleness().is_fresh() };
        eventually(LIMIT, "it is sure again", trusts).await.unwrap_or_else(|e| panic!("{mistake}: {e}"));
    }
    fs::remove_file(files.path().join("default.toml")).unwrap();
    eventually(LIMIT, "it is in doubt without its file", || async {
        !orders.latest().staleness().is_fresh()
    })
    .await
    .unwrap();
    assert_eq!(orders.latest().value().limit, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handle_answers_which_keys_hold_and_which_need_a_restart() {
    let first = "[orders]\nlimit = 1\n[service]\nzone = \"a\"\n[unread]\nkey = 1\n";
    let files = Files::with(first);
    let app = app(SERVICE).with_config_dir(files.path()).with_registry(meshwork::Memory::new());
    let orders = app.watch_config::<Orders>("orders").unwrap();
    // Without the task that looks at the files: only who asks has them read.
    let handle: Handle = app.handle();
    files.say("[orders]\nlimit = 2\n[service]\nzone = \"b\"\nweight = 7\n[unread]\nkey = 2\n");
    let reloaded = handle.reload().await.unwrap();
    let listed = |keys: &[Box<str>]| keys.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(listed(&reloaded.applied), ["orders.limit"]);
    assert_eq!(listed(&reloaded.restart_needed), ["service.weight", "service.zone"]);
    assert_eq!(reloaded.to_string(), "applied: orders.limit; restart needed: service.weight, service.zone");
    assert_eq!(orders.latest().value().limit, 2);
    assert_eq!(handle.reload().await.unwrap(), meshwork::Reloaded::default());
    // What is back to what runs needs no restart.
    files.say(first);
    let reloaded = handle.reload().await.unwrap();
    assert_eq!(
        (listed(&reloaded.applied), listed(&reloaded.restart_needed)),
        (vec!["orders.limit".to_owned()], vec![])
    );
}

#[tokio::test]
async fn before_there_is_a_configuration_there_is_nothing_to_read_again() {
    let error = App::new().handle().reload().await.unwrap_err();
    assert!(format!("{error:?}").contains("was not read yet"), "{error:?}");
}

async fn provider(files: &Files) -> Provider {
    let plan = Plan::provider()
        .service("http", "127.0.0.1:0")
        .config("registry.use", "none")
        .env("MESHWORK_CONFIG_DIR", files.path().display().to_string());
    plan.start(actor()).await.unwrap()
}

fn hang_up(provider: &Provider) {
    let sent = Command::new("kill").args(["-HUP", &provider.process().id().to_string()]).status().unwrap();
    assert!(sent.success());
}

async fn says(provider: &Provider, text: &str, times: usize) -> Vec<String> {
    let said =
        || provider.process().stderr().into_iter().filter(|line| line.contains(text)).collect::<Vec<_>>();
    let told = format!("it says `{text}` {times} times");
    eventually(LIMIT, &told, || async { said().len() >= times }).await.unwrap();
    assert_eq!(said().len(), times, "{:?}", said());
    said()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_live_is_named_once_and_a_mistake_with_its_place() {
    let files = Files::with("[service]\nzone = \"a\"\n");
    let provider = provider(&files).await;
    files.say("[service]\nzone = \"b\"\n");
    let line = says(&provider, "restart needed", 1).await.remove(0);
    assert!(
        line.contains("WARN") && line.contains("service.zone") && line.contains("default.toml:2:1"),
        "{line}"
    );

    files.say("[service]\nzone = \"b\"\nwieght = 7\n");
    let line = says(&provider, "configuration kept", 1).await.remove(0);
    for part in ["WARN", "default.toml:3:1", "service.wieght"] {
        assert!(line.contains(part), "{line}");
    }

    // SIGHUP reads the mistake again. Nothing else has changed since.
    hang_up(&provider);
    says(&provider, "configuration kept", 2).await;
    files.say("[service]\nzone = \"b\"\n# corrected\n");
    says(&provider, "nothing to apply", 1).await;
    hang_up(&provider);
    says(&provider, "nothing to apply", 2).await;
    says(&provider, "restart needed", 1).await;
    assert_eq!(http1::get(provider.addr(), "/who").await.unwrap().status, 200);
    let stopped = provider.stop(LIMIT).await.unwrap();
    assert_eq!((stopped.code, stopped.cause.as_str()), (0, "SIGTERM"));
}
