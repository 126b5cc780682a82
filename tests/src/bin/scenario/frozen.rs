//! Scenario 2: one of three providers is stopped with SIGSTOP under load, and goes on after a while.
//!
//! Its connections stay open and silent. Once with nothing but a deadline: what the picker learns from the first
//! silent calls keeps the others away. Once with a time-out of each attempt and a retry: nobody notices.

use std::{path::Path, time::Duration};

use meshwork_client::Limit;
use meshwork_tests::{
    Result,
    judge::{Judge, Length},
    local_fleet::LocalFleet,
    residue::Residue,
};
use tokio::time::{Instant, sleep};

use crate::clients::{Clients, Mark, leave, share_after, tail, timed_out};

const NODES: usize = 3;
/// A short run has fewer calls under way: on a busy machine they lie longer, and as many time-outs are allowed.
const RATES: [f64; 3] = [120.0, 500.0, 500.0];
const DEADLINE: Duration = Duration::from_secs(2);
/// The limit of an attempt, where there is one.
pub(crate) const ATTEMPT: Duration = Duration::from_millis(250);
/// What one silence may cost a client without it.
pub(crate) const TIME_OUTS: usize = 5;
/// What the slowest calls may take with it.
pub(crate) const P99: Duration = Duration::from_millis(30);
pub(crate) const MAX: Duration = Duration::from_millis(700);

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let fleet = LocalFleet::start(actor, NODES).await?;
    let before = Residue::now();
    for mark in [Mark::None, Mark::Idempotent] {
        round(&fleet, mark, length, judge).await?;
    }
    leave(fleet, before, judge).await;
    Ok(())
}

async fn round(fleet: &LocalFleet, mark: Mark, length: Length, judge: &mut Judge) -> Result<()> {
    let clients = Clients::new(fleet.discovery()?, 1, DEADLINE, |config| {
        if mark == Mark::Idempotent {
            config.attempt_timeout = Some(Limit::new(ATTEMPT, "the scenario"));
        }
    })?;
    clients.connected(NODES).await?;
    let [short, ordinary, long] = RATES;
    let load = clients.load(length.pick(short, ordinary, long), mark);
    let victims = length.pick(1, 1, NODES);
    let mut thawed = Vec::new();
    for victim in &fleet.providers[..victims] {
        sleep(Duration::from_secs(length.pick(1, 5, 10))).await;
        victim.process().freeze().await?;
        sleep(Duration::from_secs(length.pick(3, 10, 10))).await;
        victim.process().thaw();
        thawed.push((victim.pid(), Instant::now()));
        sleep(Duration::from_secs(length.pick(1, 12, 12))).await;
    }
    load.stop();
    let report = load.report().await;

    judge.told(
        if mark == Mark::None { "deadline only: calls" } else { "| 250 ms + retry: calls" },
        report.calls().len(),
    );
    match mark {
        Mark::None => {
            timed_out(&report, TIME_OUTS * victims, judge);
            judge.told("p99", format_args!("{:.1} ms", report.p99().as_secs_f64() * 1e3));
        }
        Mark::Idempotent => {
            timed_out(&report, 0, judge);
            tail(&report, P99, MAX, judge);
        }
    }
    for (pid, at) in thawed {
        match share_after(&report, pid, NODES, at) {
            Some(after) => judge.told("share after", format_args!("{} ms", after.as_millis())),
            None => judge.told("share", "not seen to come back"),
        }
    }
    clients.end(&fleet.living(), length, judge).await;
    Ok(())
}
