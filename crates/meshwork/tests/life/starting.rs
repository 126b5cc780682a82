//! The start: order, deadlines, what is undone, what is told.

use std::{future::pending, time::Duration};

use meshwork::{Component, Memory, Phase, RunError};

use crate::rig::{NAME, Running, Story, announced, app, eventually, falls};

/// The chain of causes of an app that could not start.
async fn refused(app: meshwork::App) -> (u8, String) {
    let error: RunError = Running::launch(app).ended().await.unwrap_err();
    (error.code(), format!("{error:?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_start_before_the_hooks_and_stop_after_them_in_reverse() {
    let (memory, story) = (Memory::new(), Story::default());
    let app = app(&memory)
        .on_stop(story.hook("on_stop"))
        .warm_up(story.hook("warm_up"))
        .component(story.component("cache").after("database"))
        .component(story.component("database"));
    Running::start(app).await.stop().await;
    let told = story.told();
    let expected = ["database starts", "cache starts", "warm_up", "on_stop", "cache stops", "database stops"];
    assert_eq!(told, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_undoes_what_had_started_in_reverse_and_is_the_one_that_is_told() {
    let (memory, story) = (Memory::new(), Story::default());
    let undone = story.clone();
    let app = app(&memory)
        .component(story.component("database"))
        .component(
            // Its own failure while it is put away is not the cause.
            Component::new("cache").stop(move |_| async move {
                undone.note("cache stops");
                Err::<(), _>("cache was gone already")
            }),
        )
        .component(Component::new("broker").start(|_| async { Err::<(), _>("broker refused us") }))
        .component(story.component("never"));
    let (code, said) = refused(app).await;
    assert_eq!(code, 5);
    assert!(said.contains("component `broker`") && said.contains("broker refused us"), "{said}");
    assert!(!said.contains("gone already"), "{said}");
    assert_eq!(story.told(), ["database starts", "cache stops", "database stops"]);
    assert_eq!(announced(&memory), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_panics_while_starting_is_named_with_its_message_and_its_line() {
    let panics = app(&Memory::new()).warm_up(|_| async { falls("no disk") });
    let (code, said) = refused(panics).await;
    assert_eq!(code, 5);
    assert!(said.contains("`warm_up` hook 1") && said.contains("panicked: no disk"), "{said}");
    assert!(said.contains(&format!("starting.rs:{}", line!() - 4)), "{said}");
    // Also where the hook itself panics before there is a future.
    let at_once = app(&Memory::new()).component(Component::new("disk").start(|_| {
        falls("no future");
        std::future::ready(())
    }));
    let (code, said) = refused(at_once).await;
    assert_eq!(code, 5);
    assert!(said.contains("component `disk`") && said.contains("no future"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_is_named_at_its_own_limit_and_at_that_of_the_start() {
    let (memory, story) = (Memory::new(), Story::default());
    let slow = Component::new("vault").start(|_| pending::<()>()).start_timeout(Duration::from_millis(50));
    let (code, said) = refused(app(&memory).component(story.component("database")).component(slow)).await;
    assert_eq!(code, 5);
    assert!(said.contains("component `vault`") && said.contains("not done within 50"), "{said}");
    assert_eq!(story.told(), ["database starts", "database stops"]);

    let short = "[service]\nstart_timeout = \"200ms\"";
    let hangs = [
        app(&memory).component(Component::new("vault").start(|_| pending::<()>())),
        app(&memory).warm_up(|_| pending::<()>()),
    ];
    for (app, step) in hangs.into_iter().zip(["component `vault`", "`warm_up` hook 1"]) {
        let (code, said) = refused(app.with_config(short)).await;
        assert_eq!(code, 5);
        assert!(said.contains(step) && said.contains("service.start_timeout"), "{said}");
    }
    let unready = app(&memory).with_config(short);
    let _parts = ["cache", "database"].map(|part| unready.handle().readiness(part));
    let (code, said) = refused(unready).await;
    assert_eq!(code, 5);
    assert!(said.contains("`cache`, `database`") && said.contains("service.start_timeout"), "{said}");
    assert_eq!(announced(&memory), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn components_that_wait_for_each_other_are_a_mistake_before_anything_runs() {
    let story = Story::default();
    let app = app(&Memory::new())
        .component(story.component("fine"))
        .component(story.component("a").after("b"))
        .component(story.component("b").after("a"));
    let (code, said) = refused(app).await;
    assert_eq!(code, 2);
    assert!(said.contains("`a` after `b` after `a`"), "{said}");
    assert!(story.told().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_during_the_start_cuts_the_step_and_undoes_the_others() {
    let (memory, story) = (Memory::new(), Story::default());
    let entered = story.clone();
    let app = app(&memory).component(story.component("database")).component(
        Component::new("vault")
            .start(move |_| async move {
                entered.note("vault starts");
                pending::<()>().await;
            })
            .stop(story.hook("vault stops")),
    );
    let running = Running::launch(app);
    eventually("it hangs in the second component", || story.told().len() == 2).await;
    let handle = running.handle.clone();
    let report = running.stop().await;
    assert_eq!((report.code(), &*report.cause), (0, "handle"), "{report}");
    assert_eq!(story.told(), ["database starts", "vault starts", "database stops"]);
    assert_eq!(handle.phase(), Phase::Stopped);
    assert!(!handle.serving().await);
    assert_eq!(announced(&memory), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_does_not_know_an_app_that_could_not_be_announced_and_components_are_stopped() {
    let (memory, story) = (Memory::new(), Story::default());
    memory.lag(Duration::from_secs(60));
    let app = app(&memory)
        .with_config("[registry]\nstart_timeout = \"200ms\"")
        .component(story.component("database"));
    let (code, said) = refused(app).await;
    assert_eq!(code, 4, "{said}");
    assert_eq!(story.told(), ["database starts", "database stops"]);
    assert!(!said.contains(&format!("`{NAME}` is announced")), "{said}");
}
