//! Many changes: few questions.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use meshwork_testkit::consul::Meddler;
use serde_json::json;
use tokio::time;

use super::bench::{Bench, LONG, Opened, backend, instance, shows};

const HEALTH: &str = "/v1/health/service/";
/// How long the storm is measured.
const STORM: Duration = Duration::from_secs(8);
const CHANGERS: usize = 8;

#[tokio::test]
async fn a_thousand_changes_a_second_cost_at_most_two_questions_a_second() {
    let bench = Arc::new(Bench::start().await);
    let meddler = Meddler::start(bench.agent().addr()).await.unwrap();
    let watch = Opened::new(backend(meddler.url())).watch("users");
    let registration = bench.opened().announce(instance("users", 80)).await;
    let id = registration.id();
    shows(&watch, [id.as_str()], LONG).await;
    let (stop, changes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let changers: Vec<_> = (0..CHANGERS)
        .map(|n| {
            let (bench, stop, changes) = (Arc::clone(&bench), Arc::clone(&stop), Arc::clone(&changes));
            tokio::spawn(async move {
                let mut round = 0;
                while !stop.load(Relaxed) {
                    round += 1;
                    // In the catalog: the agent's own changes would be joined on their way there.
                    let change = json!({ "Node": "storm", "Address": "127.0.0.1", "SkipNodeUpdate": round > 1,
                        "Service": { "ID": format!("s{n}"), "Service": "users", "Address": "127.0.0.1",
                            "Port": 1000 + n, "Meta": { "round": round.to_string() } } });
                    bench.agent().must("PUT", "/v1/catalog/register", &change.to_string()).await.unwrap();
                    changes.fetch_add(1, Relaxed);
                }
            })
        })
        .collect();
    time::sleep(Duration::from_secs(2)).await;
    let (begun, before, changed) = (Instant::now(), meddler.count(HEALTH), changes.load(Relaxed));
    time::sleep(STORM).await;
    let (asked, seconds) = (meddler.count(HEALTH) - before, begun.elapsed().as_secs_f64());
    let changed = changes.load(Relaxed) - changed;
    stop.store(true, Relaxed);
    for changer in changers {
        changer.await.unwrap();
    }
    let (rate, per_second) = (asked as f64 / seconds, changed as f64 / seconds);
    println!("{per_second:.0} changes/s: {rate:.2} requests/s");
    // Who stood still for a moment may ask a few times at once.
    assert!(asked as f64 <= 2.0 * seconds + 3.0, "{rate} requests/s");
    let ids: Vec<String> = (0..CHANGERS).map(|n| format!("s{n}.storm")).collect();
    let all = ids.iter().map(String::as_str).chain([id.as_str()]);
    let took = shows(&watch, all, Duration::from_secs(5)).await;
    println!("view = truth {took:?} after the storm");
}

#[tokio::test]
async fn an_idle_watch_asks_once_per_wait_and_says_nothing() {
    let bench = Bench::start().await;
    let meddler = Meddler::start(bench.agent().addr()).await.unwrap();
    let opened = Opened::new(backend(meddler.url()).with_wait(Duration::from_secs(2)));
    let mut watch = opened.watch("users");
    let registration = bench.opened().announce(instance("users", 80)).await;
    shows(&watch, [registration.id().as_str()], LONG).await;
    watch.changed().await;
    let before = meddler.count(HEALTH);
    // The heartbeats change the output of a check all the time.
    assert!(time::timeout(Duration::from_secs(5), watch.changed()).await.is_err(), "{:?}", watch.latest());
    let asked = meddler.count(HEALTH) - before;
    assert!(asked <= 12, "{asked} requests in 5 s");
}
