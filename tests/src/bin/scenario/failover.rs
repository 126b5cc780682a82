//! Scenario 1: three providers, one is killed with SIGKILL under load and comes back on its address.
//!
//! Once with calls that may be retried: none fails. Once with calls that may not: only those fail that were in
//! flight on the killed process.

use std::{net::SocketAddr, ops::Range, path::Path, time::Duration};

use meshwork_testkit::{
    load::{Call, Load, Outcome, Report},
    truth::eventually,
};
use meshwork_tests::{
    Result,
    judge::{Judge, Length},
    residue::{Residue, sockets},
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    caller::{Caller, Failure, most_connects, nothing_left},
    fleet::{Fleet, TTL},
};

const RATE: f64 = 500.0;
/// Calls that begin later than this after the kill never fail.
const BLIND: Duration = Duration::from_millis(50);
/// How long a call that begins may take until it counts as in flight on a node.
const BEGIN: Duration = Duration::from_millis(1);
/// When a process that came back must have its share again, and how much of a fair one.
const SHARE_WITHIN: Duration = Duration::from_secs(5);
const SHARE: f64 = 0.8;
/// How long all providers may take until each has answered.
const HEARD: Duration = Duration::from_secs(20);

/// What one kill looked like from the caller.
struct Death {
    addr: SocketAddr,
    at: Instant,
    /// Calls in flight there when it was last looked at before the kill.
    in_flight: usize,
    /// Between that look and the seen end of its connection further calls may have been sent there.
    unseen: Range<Instant>,
    connects: usize,
    connects_allowed: usize,
    /// From its return to its share.
    share_after: Option<Duration>,
}

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let mut fleet = Fleet::start(actor, &[TTL; 3]).await?;
    let baseline: Vec<_> = fleet.places.iter().map(|place| sockets(place.provider.pid())).collect();
    let before = Residue::now();
    let caller = Caller::new(&fleet.etcd, "1s");
    for retry in [true, false] {
        round(&mut fleet, &caller, retry, length, judge).await?;
    }
    caller.end().await;
    let clean = || async {
        let mut places = fleet.places.iter().zip(&baseline);
        places.all(|(place, before)| sockets(place.provider.pid()) <= *before)
    };
    let closed = eventually(Duration::from_secs(15), "providers hold no more sockets than at first", clean);
    judge.succeeds("no connection is left", closed.await);
    judge.succeeds("providers stop", fleet.stop().await);
    judge.succeeds("no lease is left", fleet.truth(length.allows(TTL)).await);
    judge.succeeds("nothing leaked", nothing_left(before).await);
    Ok(())
}

async fn round(
    fleet: &mut Fleet,
    caller: &Caller,
    retry: bool,
    length: Length,
    judge: &mut Judge,
) -> Result<()> {
    let call = caller.clone();
    let load = Load::rate(RATE).lasting(Duration::MAX).start(move |_| {
        let call = call.clone();
        async move { if retry { call.idempotent().await } else { call.plain().await } }
    });
    let pids: Vec<_> = fleet.places.iter().map(|place| place.provider.pid()).collect();
    caller.heard_of(&pids, HEARD).await?;
    let calm = Duration::from_secs(length.pick(1, 5, 10));
    sleep(calm).await;

    let victims = length.pick(1, 1, 3);
    let mut deaths = Vec::new();
    for victim in 0..victims {
        deaths.push(death(fleet, caller, victim, length).await?);
        sleep(calm).await;
    }
    load.stop();
    let report = load.report().await;
    tell(&report, &deaths, retry, judge);
    judge.succeeds("view equals truth", caller.view_is(&fleet.living(), length.allows(TTL)).await);
    judge.succeeds("registry equals truth", fleet.truth(length.allows(TTL * 2)).await);
    Ok(())
}

/// Kills one, watches, starts it again, and waits for its share.
async fn death(fleet: &mut Fleet, caller: &Caller, victim: usize, length: Length) -> Result<Death> {
    let provider = &fleet.places[victim].provider;
    let addr = provider.addr();
    let dials = caller.connects(addr);
    // A call has begun a little before it counts as in flight somewhere.
    let looked = Instant::now() - length.allows(BEGIN);
    let in_flight = caller.in_flight(addr);
    provider.process().kill9();
    let at = Instant::now();
    while caller.is_connected(addr) && at.elapsed() < length.allows(BLIND) {
        sleep(Duration::from_micros(200)).await;
    }
    let unseen = looked..Instant::now();
    provider.kill9().await?;

    let back = at + Duration::from_secs(length.pick(2, 10, 10));
    let mut connects = 0;
    let mut looked = at;
    while Instant::now() < back {
        // Its counter goes with its node, once the registry has dropped it.
        let now = caller.connects(addr);
        if now > 0 {
            (connects, looked) = (connects.max(now.saturating_sub(dials)), Instant::now());
        }
        sleep_until(back.min(Instant::now() + Duration::from_millis(20))).await;
    }
    let connects_allowed = most_connects(looked - at);

    fleet.again(victim).await?;
    let returned = Instant::now();
    let pid = fleet.places[victim].provider.pid();
    let fair = SHARE / fleet.places.len() as f64;
    // The strict figure decides later; here only how long it is looked at.
    let shared =
        eventually(SHARE_WITHIN * 4, "it has its share", || async { caller.share(pid) >= fair }).await;
    let share_after = shared.is_ok().then(|| returned.elapsed());
    Ok(Death { addr, at, in_flight, unseen, connects, connects_allowed, share_after })
}

fn tell(report: &Report<u32, Failure>, deaths: &[Death], retry: bool, judge: &mut Judge) {
    let calls = report.calls();
    judge.told(if retry { "with retry: calls" } else { "| without: calls" }, calls.len());
    judge.told("p50", format_args!("{:.1} ms", report.p50().as_secs_f64() * 1e3));
    judge.told("p99", format_args!("{:.1} ms", report.p99().as_secs_f64() * 1e3));
    let failed: Vec<_> = calls.iter().filter(|call| call.is_failed()).collect();
    let first = failed.first().and_then(|call| Caller::failure(call));
    if retry {
        judge.count("failed", failed.len(), 0);
    } else {
        judge.told("failed", failed.len());
        let mut explained = 0;
        for death in deaths {
            let there: Vec<_> = failed.iter().filter(|call| died_with(call, death)).collect();
            let unseen = calls.iter().filter(|call| death.unseen.contains(&call.began)).count();
            judge.count("on the killed one", there.len(), death.in_flight + unseen);
            judge.told("in flight there", format_args!("{} + {unseen} begun at the kill", death.in_flight));
            explained += there.len();
            let latest = there.iter().map(|call| call.began.saturating_duration_since(death.at)).max();
            judge.time("latest begin after the kill", latest.unwrap_or_default(), BLIND);
        }
        judge.count("failed elsewhere", failed.len() - explained, 0);
    }
    if let Some(first) = first {
        judge.note(&format!("first failure: {first}"));
    }
    for death in deaths {
        judge.count("connects to the dead one", death.connects, death.connects_allowed);
        match death.share_after {
            Some(after) => judge.time("share after", after, SHARE_WITHIN),
            None => judge.holds("the one that came back gets its share", false),
        }
    }
}

/// Whether a failed call was on the killed process: begun before or just after, and sent there last.
fn died_with(call: &Call<u32, Failure>, death: &Death) -> bool {
    let sent_there = match &call.outcome {
        Outcome::Failed(failure) => failure.addresses.last().is_some_and(|to| *to == death.addr.to_string()),
        _ => false,
    };
    sent_there && call.ended >= death.at && call.began < death.at + Duration::from_secs(1)
}
