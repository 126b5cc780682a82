//! Tasks and schedules: kept running, contained, counted, ended.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use meshwork::{Handle, Memory, Missed, Restart, Schedule, TaskOptions, TaskState, TaskStatus};
use tokio::{sync::Semaphore, time::Instant};

use crate::rig::{Running, Story, app, eventually, falls};

fn status(handle: &Handle, name: &str) -> TaskStatus {
    handle.tasks().into_iter().find(|task| &*task.name == name).unwrap()
}

fn quick() -> TaskOptions {
    TaskOptions::default().pauses(Duration::from_millis(1), Duration::from_millis(5))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_panics_or_fails_is_begun_anew_counted_and_reaches_nobody_else() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let app = app(&Memory::new()).task_with("outbox", quick(), move |handle| {
        let run = counted.fetch_add(1, SeqCst);
        async move {
            match run {
                0 => falls("lost the queue"),
                1 => return Err("queue is away"),
                _ => handle.stopping().cancelled().await,
            }
            Ok(())
        }
    });
    let handle = app.handle();
    assert_eq!(status(&handle, "outbox").state, TaskState::Waiting);
    let running = Running::start(app).await;
    eventually("it runs for the third time", || runs.load(SeqCst) == 3).await;
    let seen = status(&handle, "outbox");
    assert_eq!((seen.starts, seen.failures, seen.panics), (3, 2, 1), "{seen:?}");
    assert_eq!(seen.last_failure.as_deref(), Some("queue is away"));
    let report = running.stop().await;
    assert!(report.is_clean(), "{report}");
    assert_eq!(status(&handle, "outbox").state, TaskState::Ended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_follow_the_policy() {
    let counts: Vec<_> = (0..3).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let mut built = app(&Memory::new());
    let policies =
        [("always", Restart::Always), ("on failure", Restart::OnFailure), ("never", Restart::Never)];
    for ((name, restart), count) in policies.into_iter().zip(&counts) {
        let count = Arc::clone(count);
        built = built.task_with(name, quick().restart(restart), move |_| {
            count.fetch_add(1, SeqCst);
            // `never` fails, the others end well.
            std::future::ready(if restart == Restart::Never { Err("once") } else { Ok(()) })
        });
    }
    let running = Running::start(built).await;
    eventually("one is begun again and again", || counts[0].load(SeqCst) > 10).await;
    let ended = || ["on failure", "never"].map(|name| status(&running.handle, name).state);
    eventually("the others have ended", || ended() == [TaskState::Ended; 2]).await;
    assert_eq!((counts[1].load(SeqCst), counts[2].load(SeqCst)), (1, 1));
    assert!(running.stop().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_that_cannot_do_without_a_task_stops_with_8_when_it_fails() {
    let options = quick().restart(Restart::Never).required();
    let app = app(&Memory::new()).task_with("ledger", options, |_| async { Err::<(), _>("ledger is torn") });
    let report = Running::launch(app).ended().await.unwrap();
    assert_eq!(report.code(), 8, "{report}");
    assert!(report.cause.contains("task `ledger`") && report.cause.contains("ledger is torn"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_does_not_end_is_cut_and_named_within_its_own_time_and_that_of_the_drain() {
    let options = TaskOptions::default().stop_timeout(Duration::from_millis(100));
    let app = app(&Memory::new())
        .with_config("[drain]\ndeadline = \"1500ms\"")
        .task("deaf", |_| pending::<()>())
        .task_with("slow", options, |_| pending::<()>())
        .task("polite", |handle| async move { handle.draining().cancelled().await });
    let running = Running::start(app).await;
    let began = Instant::now();
    let report = running.stop().await;
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    assert_eq!((report.code(), report.cut.len()), (6, 2), "{report}");
    assert!(
        report.cut[0].contains("task `deaf`") && report.cut[1].contains("task `slow`: not done within 100")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_run_overlaps_the_one_before_and_none_begins_after_the_stop() {
    let (gate, story) = (Arc::new(Semaphore::new(0)), Story::default());
    let (pass, told) = (Arc::clone(&gate), story.clone());
    let every = Schedule::every(Duration::from_millis(20)).missed(Missed::Once);
    let app = app(&Memory::new()).schedule("report", every, move |_| {
        let (gate, story) = (Arc::clone(&pass), told.clone());
        async move {
            story.note("begins");
            gate.acquire().await.unwrap().forget();
            story.note("ends");
        }
    });
    let handle = app.handle();
    let running = Running::start(app).await;
    eventually("times pass while the first run is under way", || status(&handle, "report").missed >= 3).await;
    assert_eq!(story.told(), ["begins"]);
    gate.add_permits(1);
    eventually("the next run is under way", || story.told().len() == 3).await;
    running.handle.stop();
    eventually("it drains", || handle.draining().is_cancelled()).await;
    gate.add_permits(10);
    let report = running.ended().await.unwrap();
    assert!(report.is_clean(), "{report}");
    assert_eq!(story.told(), ["begins", "ends", "begins", "ends"]);
    let seen = status(&handle, "report");
    assert_eq!((seen.starts, seen.state), (2, TaskState::Ended));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_overlap_where_that_was_asked_for_and_those_that_do_not_end_are_cut_by_name() {
    let every = Schedule::every(Duration::from_millis(5)).overlap(3);
    let under_way = Arc::new(AtomicUsize::new(0));
    let begun = Arc::clone(&under_way);
    let app = app(&Memory::new()).with_config("[drain]\ndeadline = \"1500ms\"").schedule(
        "sweep",
        every,
        move |_| {
            begun.fetch_add(1, SeqCst);
            pending::<()>()
        },
    );
    let running = Running::start(app).await;
    let handle = running.handle.clone();
    // A time that comes late on a busy machine is missed too: that alone does not say that three are under way.
    let full = || under_way.load(SeqCst) == 3 && status(&handle, "sweep").missed >= 3;
    eventually("times pass while three are under way", full).await;
    let report = running.stop().await;
    assert_eq!((under_way.load(SeqCst), status(&handle, "sweep").starts), (3, 3));
    assert_eq!((report.code(), report.cut.len()), (6, 1), "{report}");
    assert!(report.cut[0].contains("task `sweep`"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_panics_is_counted_and_the_next_one_comes() {
    let app = app(&Memory::new())
        .schedule("sweep", Schedule::every(Duration::from_millis(10)), |_| async { falls("no broom") });
    let running = Running::start(app).await;
    eventually("it is begun again", || status(&running.handle, "sweep").starts >= 3).await;
    let seen = status(&running.handle, "sweep");
    assert!(seen.panics >= 2 && seen.last_failure.as_deref() == Some("panicked: no broom"), "{seen:?}");
    assert_eq!(running.stop().await.code(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_given_twice_and_times_that_never_come_are_mistakes_that_name_their_place() {
    let twice = app(&Memory::new()).task("a", |_| async {}).task("a", |_| async {});
    let error = Running::launch(twice).ended().await.unwrap_err();
    assert_eq!(error.code(), 2);
    assert!(format!("{error:?}").contains("two tasks are named `a`"));
    let never = app(&Memory::new());
    let place = format!("tasks.rs:{}", line!() + 1);
    let never = never.schedule("zero", Schedule::every(Duration::ZERO), |_| async {});
    let said = format!("{:?}", Running::launch(never).ended().await.unwrap_err());
    assert!(said.contains("schedule `zero`") && said.contains(&place), "{said}");
}

#[cfg(feature = "cron")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cron_pattern_runs_by_the_second_and_a_wrong_one_is_named() {
    let app = app(&Memory::new()).schedule("tick", Schedule::cron("* * * * * *"), |_| async {});
    let running = Running::start(app).await;
    eventually("it has run twice", || status(&running.handle, "tick").starts >= 2).await;
    assert!(running.stop().await.is_clean());
    let wrong = crate::rig::app(&Memory::new()).schedule("tick", Schedule::cron("61 * * * *"), |_| async {});
    let error = Running::launch(wrong).ended().await.unwrap_err();
    let said = format!("{error:?}");
    assert_eq!(error.code(), 2);
    assert!(said.contains("schedule `tick`") && said.contains("`61 * * * *`"), "{said}");
}
