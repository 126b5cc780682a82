//! The last step: telemetry leaves, or is left behind.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use meshwork::{BoxError, Memory};
use tokio::time::Instant;

use crate::rig::{Running, Story, app};

const BUDGET: Duration = Duration::from_secs(1);
/// How late a noisy machine may be.
const SLACK: Duration = Duration::from_secs(2);

/// A collector that takes what it is sent, and answers or never does.
fn collector(answers: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut held = Vec::new();
        for mut peer in listener.incoming().map_while(Result::ok) {
            let mut said = [0; 5];
            peer.read_exact(&mut said).unwrap();
            if answers {
                peer.write_all(b"taken").unwrap();
            }
            held.push(peer);
        }
    });
    addr
}

/// As a provider's `shutdown`: blocks its thread until the collector has answered.
fn export(to: SocketAddr) -> Result<(), BoxError> {
    let mut peer = TcpStream::connect(to)?;
    peer.write_all(b"spans")?;
    let mut answer = [0; 5];
    peer.read_exact(&mut answer)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_collector_delays_the_end_by_its_budget_and_costs_no_exit_code() {
    let (story, live, dead) = (Story::default(), collector(true), collector(false));
    let sent = story.clone();
    let app = app(&Memory::new())
        .with_config("[drain]\ndeadline = \"10s\"\nflush = \"1s\"")
        .component(story.component("database"))
        .on_stop(story.hook("hook"))
        .on_flush("traces", move |_| async move { export(dead) })
        .on_flush("logs", |_| async { Err::<(), _>("no disk") })
        .on_flush("metrics", move |_| async move {
            export(live)?;
            sent.note("metrics sent");
            Ok::<_, BoxError>(())
        });
    let running = Running::start(app).await;
    let began = Instant::now();
    let report = running.stop().await;
    let took = began.elapsed();
    assert!(took >= BUDGET && took < BUDGET + SLACK, "{took:?}");
    assert_eq!(story.told(), ["database starts", "hook", "database stops", "metrics sent"]);
    assert_eq!((report.code(), report.cut.len(), report.faults.len()), (0, 0, 2), "{report}");
    assert!(report.faults[0].contains("flush of `traces`: not done within"), "{report}");
    assert!(report.faults[1].contains("flush of `logs`: no disk"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_hangs_before_it_takes_nothing_from_its_budget() {
    let story = Story::default();
    let flushed = story.clone();
    let app = app(&Memory::new())
        .with_config("[drain]\ndeadline = \"1200ms\"\nflush = \"250ms\"")
        .on_stop(|_| std::future::pending::<()>())
        .on_flush("traces", |_| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            flushed.note("flushed");
        });
    let running = Running::start(app).await;
    let began = Instant::now();
    let report = running.stop().await;
    assert!(began.elapsed() < Duration::from_millis(1_200) + SLACK, "{:?}", began.elapsed());
    assert_eq!(report.code(), 6, "{report}");
    assert_eq!(story.told(), ["flushed"], "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_is_flushed_too() {
    let story = Story::default();
    let app = app(&Memory::new())
        .warm_up(|_| async { Err::<(), _>("cold") })
        .on_flush("traces", story.hook("flushed"));
    let error = Running::launch(app).ended().await.unwrap_err();
    assert_eq!((error.code(), story.told()), (5, vec!["flushed".to_owned()]));
}
