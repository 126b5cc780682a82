//! Scenario 9: all providers fail for ten seconds under calls that may be retried, and so does the last of a chain of
//! five services.
//!
//! The providers count the attempts. Retries must not become the load that keeps a service down.

use std::{path::Path, time::Duration};

use meshwork_tests::{
    Result, SERVICE,
    behave::Behaviour,
    judge::{Judge, Length},
    local_fleet::LocalFleet,
    provider::{Plan, Provider},
    residue::Residue,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::clients::{Calls, Clients, Mark, leave};

const NODES: usize = 3;
/// The services of the chain from its front to its leaf, and how many processes each has: where there is no other node
/// nobody retries. One process sees all that the leaf is asked, so that ten retries a second, which are free, are few.
const CHAIN: [(&str, usize); 5] = [(SERVICE, 2), ("second", 2), ("third", 2), ("fourth", 1), ("leaf", 2)];
const CHAIN_RATE: f64 = 300.0;
/// How long they fail. The budget of a second is used in its first quarter: the less time, the more such quarters.
const BAD: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(1);
const FAILS_IN: Duration = Duration::from_millis(1);
/// How long a provider may take to stop.
const STOP: Duration = Duration::from_secs(30);
/// How often the counts of the providers are read.
const LOOK: Duration = Duration::from_millis(100);
/// Attempts per request, over the whole bad time and in any second of it.
const MOST: f64 = 1.25;
const MOST_IN_A_SECOND: f64 = 1.30;
/// Which part of calls is well again, and when.
const WELL: f64 = 0.999;
const WELL_WITHIN: Duration = Duration::from_secs(2);

/// The attempts that some providers had counted at a moment.
#[derive(Clone, Copy)]
struct Count {
    at: Instant,
    attempts: u64,
}

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    all_fail(actor, length, judge).await?;
    leaf_fails(actor, length, judge).await
}

async fn all_fail(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let fleet = LocalFleet::start(actor, NODES).await?;
    let before = Residue::now();
    let clients = Clients::new(fleet.discovery()?, 1, DEADLINE, |_| {})?;
    clients.connected(NODES).await?;
    let load = clients.load(length.pick(300.0, 1_000.0, 1_000.0), Mark::Idempotent);
    let counts = outage(&fleet.providers, length).await?;
    let well = Instant::now();
    sleep(WELL_WITHIN + Duration::from_secs(length.pick(1, 5, 10))).await;
    load.stop();
    let report = load.report().await;
    tell("all fail", &counts, &report, judge);
    judge.time("99.9 % well again after", well_after(&report, well), WELL_WITHIN);
    let (first, last) = (counts[0], counts[counts.len() - 1]);
    let begun = report.calls().iter().filter(|call| (first.at..last.at).contains(&call.began)).count();
    retried(last.attempts - first.attempts, begun, judge);
    clients.end(&fleet.living(), length, judge).await;
    leave(fleet, before, judge).await;
    Ok(())
}

async fn leaf_fails(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let mut fleet = LocalFleet::start(actor, 0).await?;
    let mut plans = Vec::new();
    for (at, (service, processes)) in CHAIN.into_iter().enumerate() {
        let plan = Plan::provider().named(service);
        let plan = CHAIN.get(at + 1).map_or(plan.clone(), |(next, _)| plan.before(next));
        plans.extend(vec![plan; processes]);
    }
    fleet.grow(plans).await?;
    let before = Residue::now();
    let clients = Clients::new(fleet.discovery()?, 1, DEADLINE, |_| {})?;
    clients.connected(CHAIN[0].1).await?;
    let (others, leaf) = fleet.providers.split_at(fleet.providers.len() - CHAIN[CHAIN.len() - 1].1);
    let load = clients.load(CHAIN_RATE, Mark::Idempotent);
    let counts = outage(leaf, length).await?;
    load.stop();
    let report = load.report().await;
    tell("| the leaf of five fails", &counts, &report, judge);
    let (mut passed, mut rest) = (Vec::new(), others);
    for (_, processes) in &CHAIN[..CHAIN.len() - 1] {
        let (link, behind) = rest.split_at(*processes);
        passed.push(usize::try_from(count(link).await?.attempts)?);
        rest = behind;
    }
    judge.told("attempts along the chain", format_args!("{passed:?}"));
    retried(count(leaf).await?.attempts, passed[passed.len() - 1], judge);
    let truth = fleet.providers[..CHAIN[0].1].iter().map(|provider| provider.id().to_owned()).collect();
    clients.end(&truth, length, judge).await;
    // From the front: who calls others holds connections to them.
    for provider in others {
        provider.stop(STOP).await?;
    }
    leave(fleet, before, judge).await;
    Ok(())
}

/// Else nothing was put to the test.
fn retried(attempts: u64, requests: usize, judge: &mut Judge) {
    judge.holds("there were retries", attempts as f64 > requests as f64 * 1.05);
}

/// Lets these providers fail for a while, and says what they counted meanwhile. They are well again afterwards.
async fn outage(providers: &[Provider], length: Length) -> Result<Vec<Count>> {
    sleep(Duration::from_secs(length.pick(1, 5, 10))).await;
    for provider in providers {
        provider.controls().behave(Behaviour::default().failing(1.0, FAILS_IN)).await?;
    }
    let end = Instant::now() + BAD;
    let mut counts = vec![count(providers).await?];
    while Instant::now() < end {
        sleep_until(end.min(counts[counts.len() - 1].at + LOOK)).await;
        counts.push(count(providers).await?);
    }
    for provider in providers {
        provider.controls().behave(Behaviour::default()).await?;
    }
    Ok(counts)
}

/// What these providers have counted by now.
async fn count(providers: &[Provider]) -> Result<Count> {
    let asked = Instant::now();
    let mut attempts = 0;
    for provider in providers {
        attempts += provider.controls().served().await?.get.entered;
    }
    // They were asked one after the other.
    Ok(Count { at: asked + asked.elapsed() / 2, attempts })
}

fn tell(what: &str, counts: &[Count], report: &Calls, judge: &mut Judge) {
    judge.told(&format!("{what}: calls"), report.calls().len());
    judge.told("failed", report.failed());
    let all = per_request(counts[0], counts[counts.len() - 1], report);
    bound("attempts per request", all, MOST, judge);
    let seconds = counts.iter().filter_map(|from| {
        let to = counts.iter().find(|to| to.at >= from.at + Duration::from_secs(1))?;
        Some(per_request(*from, *to, report))
    });
    bound("in a second", seconds.fold(0.0, f64::max), MOST_IN_A_SECOND, judge);
}

fn bound(what: &str, value: f64, most: f64, judge: &mut Judge) {
    judge.told(what, format_args!("{value:.3}"));
    judge.holds(&format!("{what}: {value:.3}, allowed are {most}"), value <= most);
}

/// Attempts per request: those of a time belong to the calls that were under way in it.
fn per_request(from: Count, to: Count, report: &Calls) -> f64 {
    let requests = report.calls().iter().filter(|call| call.began < to.at && from.at < call.ended).count();
    (to.attempts - from.attempts) as f64 / requests.max(1) as f64
}

/// From `well` until all but one of a thousand of the calls that were yet to begin were answered.
fn well_after(report: &Calls, well: Instant) -> Duration {
    let calls: Vec<_> = report.since(well).collect();
    let mut failed = calls.iter().filter(|call| call.is_failed()).count();
    for (place, call) in calls.iter().enumerate() {
        if failed as f64 <= (calls.len() - place) as f64 * (1.0 - WELL) {
            return call.intended - well;
        }
        failed -= usize::from(call.is_failed());
    }
    Duration::MAX
}
