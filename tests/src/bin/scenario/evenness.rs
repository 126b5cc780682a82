//! Scenario 26: three equal providers, quick ones and slower ones, with a hiccup now and then, at a low and a high rate.
//!
//! Each gets its share over the run and in any five seconds of it; and the first calls of a new client do not all go
//! to the one that connected first.

use std::{path::Path, time::Duration};

use meshwork_testkit::load::Call;
use meshwork_tests::{
    Result,
    behave::{Behaviour, Work},
    judge::{Judge, Length},
    local_fleet::LocalFleet,
    residue::Residue,
};
use tokio::time::{Instant, sleep};

use crate::{
    caller::Failure,
    clients::{Calls, Clients, Mark, behave, failed, leave},
};

const NODES: usize = 3;
const DEADLINE: Duration = Duration::from_secs(1);
/// Quick ones do no work; the slower ones take 5 ms.
const KINDS: [(&str, Work); 2] = [("echo", Work::Echo), ("5 ms", Work::Between(5_000, 5_000))];
const HICCUP: Duration = Duration::from_millis(15);
const ONE_IN: u64 = 200;
/// How far from its fair part the share of a provider may be, over the run and in any window.
const OVER_ALL: f64 = 0.10;
const IN_A_WINDOW: f64 = 0.30;
const WINDOW: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(250);
/// Of so many first calls no provider gets more than this.
const FIRST: usize = 30;
const FIRST_MOST: usize = 20;

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let rates: &[f64] = length.pick(&[500.0], &[100.0, 500.0, 2_000.0], &[100.0, 500.0, 2_000.0]);
    let fleet = LocalFleet::start(actor, NODES).await?;
    let before = Residue::now();
    for (kind, work) in KINDS {
        behave(&fleet, Behaviour::default().working(work).with_hiccup(HICCUP, ONE_IN)).await?;
        for rate in rates {
            judge.told(&format!("| {kind}, {rate} rps:"), "");
            share(&fleet, *rate, length, judge).await?;
            first_calls(&fleet, *rate, length, judge).await?;
        }
    }
    leave(fleet, before, judge).await;
    Ok(())
}

async fn share(fleet: &LocalFleet, rate: f64, length: Length, judge: &mut Judge) -> Result<()> {
    let clients = Clients::new(fleet.discovery()?, 1, DEADLINE, |_| {})?;
    clients.connected(NODES).await?;
    let load = clients.load(rate, Mark::None);
    let lasting = Duration::from_secs(length.pick(6, 12, 30));
    sleep(lasting).await;
    load.stop();
    let report = load.report().await;
    judge.told("calls", report.calls().len());
    failed(&report, 0, judge);

    let pids: Vec<_> = fleet.providers.iter().map(|provider| provider.pid()).collect();
    let begun = report.begun();
    let within = |from: Instant, to: Instant| uneven(&pids, &report, |at| (from..to).contains(&at));
    let (all, _) = uneven(&pids, &report, |_| true);
    judged("share off by", all, OVER_ALL * slack(length), judge);
    let steps = (lasting - WINDOW).as_millis() / STEP.as_millis();
    let windows =
        (0..=u32::try_from(steps)?).map(|step| within(begun + STEP * step, begun + STEP * step + WINDOW));
    let (worst, shares) =
        windows.fold((0.0, Vec::new()), |worst, next| if next.0 > worst.0 { next } else { worst });
    judged("in 5 s by", worst, IN_A_WINDOW * slack(length), judge);
    judge.note(&format!("{rate} rps: the most uneven 5 s: {shares:?}"));
    clients.end(&fleet.living(), length, judge).await;
    Ok(())
}

/// Beside other work equal providers are not: one that waits for the processor is slow.
fn slack(length: Length) -> f64 {
    length.pick(3.0, 1.0, 1.0)
}

/// New clients, one after the other, of whom nobody has called before.
async fn first_calls(fleet: &LocalFleet, rate: f64, length: Length, judge: &mut Judge) -> Result<()> {
    let (mut most, mut unanswered) = (0, 0);
    for _ in 0..length.pick(3, 5, 10) {
        let clients = Clients::new(fleet.discovery()?, 1, DEADLINE, |_| {})?;
        let load = clients.load(rate, Mark::None);
        while load.begun() < FIRST as u64 {
            sleep(Duration::from_millis(1)).await;
        }
        load.stop();
        let report = load.report().await;
        unanswered += report.failed();
        let first = report.calls()[..FIRST].iter();
        let shares = shares(fleet.providers.iter().map(|provider| provider.pid()), first);
        most = most.max(shares.into_iter().max().unwrap_or(FIRST));
        clients.end(&fleet.living(), length, judge).await;
    }
    judge.count("of the first 30 of a new client", most, FIRST_MOST);
    judge.count("failed", unanswered, 0);
    Ok(())
}

fn judged(what: &str, off: f64, most: f64, judge: &mut Judge) {
    judge.told(what, format_args!("{:.1} %", off * 100.0));
    judge.holds(&format!("{what} {:.1} %, allowed are {:.0} %", off * 100.0, most * 100.0), off <= most);
}

/// How far the share of any of them is from the fair one, as a part of it, and the shares; of calls meant to begin at
/// a time that `counts`.
fn uneven(pids: &[u32], report: &Calls, counts: impl Fn(Instant) -> bool) -> (f64, Vec<usize>) {
    let shares = shares(pids.iter().copied(), report.calls().iter().filter(|call| counts(call.intended)));
    let fair = shares.iter().sum::<usize>() as f64 / shares.len() as f64;
    (shares.iter().map(|share| (*share as f64 / fair - 1.0).abs()).fold(0.0, f64::max), shares)
}

/// How many of the calls each of them has answered.
fn shares<'a>(
    pids: impl Iterator<Item = u32>,
    calls: impl Iterator<Item = &'a Call<u32, Failure>> + Clone,
) -> Vec<usize> {
    pids.map(|pid| calls.clone().filter(|call| call.answer() == Some(&pid)).count()).collect()
}
