//! One-shot jobs.

use std::future::pending;

use meshwork::{App, Component, Memory, Phase};

use crate::rig::{Running, Story, announced, app, eventually};

fn with_job(app: App, args: &[&str], story: &Story) -> App {
    app.with_args(args.iter().copied())
        .component(story.component("database"))
        .warm_up(story.hook("warm_up"))
        .on_serving(story.hook("on_serving"))
        .on_stop(story.hook("on_stop"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_runs_with_the_components_and_the_configuration_and_nothing_is_bound_or_announced() {
    let (memory, story) = (Memory::new(), Story::default());
    let told = (story.clone(), memory.clone());
    let app = with_job(app(&memory), &["--job=migrate"], &story)
        .with_config("[orders]\ntable = \"orders_2\"")
        .job("seed", |_| async {})
        .job("migrate", move |handle| async move {
            let (story, memory) = told;
            let bound = handle.local_addr().is_some();
            story.note(format!("{} bound {bound} announced {}", handle.phase(), announced(&memory)));
        });
    let report = Running::launch(app).ended().await.unwrap();
    assert_eq!((report.code(), &*report.cause), (0, "job `migrate`"), "{report}");
    assert_eq!(story.told(), ["database starts", "starting bound false announced 0", "database stops"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_or_panics_is_7_and_components_are_stopped() {
    for panics in [false, true] {
        let (memory, story) = (Memory::new(), Story::default());
        let app = with_job(app(&memory), &["--job", "migrate"], &story).job("migrate", move |_| async move {
            assert!(!panics, "row 7 is broken");
            Err::<(), _>("row 7 is broken")
        });
        let error = Running::launch(app).ended().await.unwrap_err();
        let said = format!("{error:?}");
        assert_eq!(error.code(), 7, "{said}");
        assert!(said.contains("job `migrate`") && said.contains("row 7 is broken"), "{said}");
        assert_eq!(said.contains("panicked"), panics, "{said}");
        assert_eq!(story.told(), ["database starts", "database stops"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_job_lists_those_there_are_and_nothing_starts() {
    let (memory, story) = (Memory::new(), Story::default());
    let app = with_job(app(&memory), &["--job=migrat"], &story).job("migrate", |_| async {});
    let error = Running::launch(app).ended().await.unwrap_err();
    assert_eq!(error.code(), 2);
    assert!(format!("{error:?}").contains("no job `migrat`; there are `migrate`"), "{error:?}");
    assert!(story.told().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_is_asked_to_stop_has_the_drains_deadline_and_is_cut_then() {
    let (memory, story) = (Memory::new(), Story::default());
    let short = "[drain]\nsettle = \"0s\"\ndeadline = \"1s\"";
    let began = story.clone();
    let deaf =
        with_job(app(&memory), &["--job=deaf"], &story).with_config(short).job("deaf", move |_| async move {
            began.note("job");
            pending::<()>().await;
        });
    let running = Running::launch(deaf);
    eventually("the job runs", || story.told().len() == 2).await;
    let handle = running.handle.clone();
    let report = running.stop().await;
    assert_eq!((report.code(), &*report.cause), (6, "handle"), "{report}");
    assert!(report.cut.iter().any(|line| line.contains("job `deaf`")), "{report}");
    assert_eq!(story.told(), ["database starts", "job", "database stops"]);
    assert_eq!(handle.phase(), Phase::Stopped);

    let began = story.clone();
    let polite = app(&memory).with_args(["--job=polite"]).component(Component::new("empty")).job(
        "polite",
        |handle| async move {
            began.note("polite");
            handle.stopping().cancelled().await;
        },
    );
    let running = Running::launch(polite);
    eventually("the job runs", || story.told().len() == 4).await;
    assert_eq!(running.stop().await.code(), 0);
}
