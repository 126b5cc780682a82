//! In paused time, where a second of load takes none.

use super::*;

type Text = &'static str;

async fn ten_ms(number: u64) -> Result<u64, Text> {
    time::sleep(Duration::from_millis(10)).await;
    Ok(number)
}

#[tokio::test(start_paused = true)]
async fn keeps_the_rate_and_counts_every_call() {
    let report = Load::rate(500.0).lasting(Duration::from_secs(20)).run(ten_ms).await;
    let calls = report.calls().len();
    assert!((9_500..10_500).contains(&calls), "{calls}");
    assert_eq!(report.failed(), 0);
    assert!((10..13).contains(&report.p50().as_millis()), "{report}");
    assert!(report.calls().iter().zip(0..).all(|(call, number)| call.number == number));
    assert!(report.calls().is_sorted_by_key(|call| call.intended));
}

#[tokio::test(start_paused = true)]
async fn counts_latency_from_the_intended_start() {
    // One call at a time of 100 ms each, offered 100 per second: those that wait in line see it.
    let slow = |_| async {
        time::sleep(Duration::from_millis(100)).await;
        Ok::<_, Text>(())
    };
    let report = Load::rate(100.0).calls(20).in_flight(1).run(slow).await;
    assert_eq!(report.calls().len(), 20);
    assert!(report.max() > Duration::from_millis(1_500), "{report}");
    assert!(report.lateness(1.0) > Duration::from_millis(1_400), "{report}");
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_times() {
    let course = |seed| async move {
        let report = Load::rate(100.0).calls(50).seed(seed).run(ten_ms).await;
        report.calls().iter().map(|call| call.intended - report.begun()).collect::<Vec<_>>()
    };
    assert_eq!(course(7).await, course(7).await);
    assert_ne!(course(7).await, course(8).await);
}

#[tokio::test(start_paused = true)]
async fn failures_keep_their_times_and_reasons() {
    let some_fail = |number: u64| async move { if number % 10 == 3 { Err("no") } else { Ok(number % 2) } };
    let report = Load::rate(1_000.0).calls(100).run(some_fail).await;
    assert_eq!(report.failed(), 10);
    assert!(report.failures().all(|call| call.outcome == Outcome::Failed("no") && call.number % 10 == 3));
    assert_eq!(report.shares(|odd| *odd).into_iter().collect::<Vec<_>>(), [(0, 50), (1, 40)]);
    let half = report.calls()[50].intended;
    assert_eq!(report.since(half).count(), 50);
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_cut_after_the_grace_and_counts_as_failed() {
    let some_hang = |number: u64| async move {
        if number == 5 {
            std::future::pending::<()>().await;
        }
        Ok::<_, Text>(number)
    };
    let report = Load::rate(1_000.0).calls(10).grace(Duration::from_secs(3)).run(some_hang).await;
    assert_eq!((report.calls().len(), report.failed()), (10, 1));
    assert_eq!(report.failures().next().unwrap().outcome, Outcome::Unfinished);
    assert!(report.max() >= Duration::from_secs(3), "{report}");
    let soon_after = report.calls()[9].intended + Duration::from_secs(1);
    assert_eq!(report.in_flight_at(soon_after).map(|call| call.number).collect::<Vec<_>>(), [5]);
}

#[tokio::test(start_paused = true)]
async fn runs_in_the_background_until_it_is_stopped() {
    let load = Load::rate(1_000.0).lasting(Duration::MAX).start(ten_ms);
    while load.begun() < 100 {
        time::sleep(Duration::from_millis(1)).await;
    }
    assert!(load.in_flight() > 0);
    assert_eq!(load.failed(), 0);
    load.stop();
    let report = load.report().await;
    assert!(report.calls().len() >= 100 && report.failed() == 0, "{report}");
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "as asked")]
async fn the_panic_of_a_call_is_the_panic_of_the_load() {
    let panics = |_| async {
        if true {
            panic!("as asked");
        }
        Ok::<(), Text>(())
    };
    Load::rate(100.0).calls(1).run(panics).await;
}
