//! Scenario 8: most of ten providers, or all of them, fail every call; so do some and all of one, two and three.
//!
//! No call ever hears that there is no node while one accepts; no more are ejected than may be; and below a half of
//! healthy ones all are used.

use std::{path::Path, time::Duration};

use meshwork_testkit::load::{Call, Outcome};
use meshwork_tests::{
    Result,
    behave::Behaviour,
    judge::{Judge, Length},
    local_fleet::LocalFleet,
    residue::Residue,
};
use tokio::{
    time::{Instant, sleep_until},
    try_join,
};

use crate::{
    caller::{Caller, Failure},
    clients::{Clients, Mark, behave, leave},
};

/// Fleets by size, and how many of each fail, in turn. The fleets run beside each other.
const FLEETS: [(usize, &[usize]); 4] = [(10, &[6, 9, 10]), (1, &[1]), (2, &[1, 2]), (3, &[1, 2, 3])];
const RATE: f64 = 200.0;
const DEADLINE: Duration = Duration::from_secs(1);
const FAILS_IN: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_millis(10);
/// The part of all connected nodes that may be ejected, but always one.
const CAP: f64 = 0.3;

/// What came of one fleet with so many failing.
struct Case {
    nodes: usize,
    bad: usize,
    calls: usize,
    failed: usize,
    /// Calls that failed without having been sent to any node, and what the first was told.
    unsent: usize,
    said: Option<String>,
    ejected_at_most: usize,
    /// Nodes that got no call in the second half of the bad time.
    unused: usize,
    /// Of the calls that were meant to begin once all were well again.
    failed_after: usize,
    clients: Clients,
}

pub(crate) async fn play(actor: &Path, length: Length, judge: &mut Judge) -> Result<()> {
    let mut fleets = Vec::new();
    for (nodes, _) in FLEETS {
        fleets.push(LocalFleet::start(actor, nodes).await?);
    }
    let before = Residue::now();
    let [ten, one, two, three] = &fleets[..] else { return Err("there are four fleets".into()) };
    let played = try_join!(
        in_turn(ten, FLEETS[0].1, length),
        in_turn(one, FLEETS[1].1, length),
        in_turn(two, FLEETS[2].1, length),
        in_turn(three, FLEETS[3].1, length),
    )?;
    for (fleet, cases) in fleets.iter().zip(<[Vec<Case>; 4]>::from(played)) {
        for case in cases {
            tell(&case, judge);
            case.clients.end(&fleet.living(), length, judge).await;
        }
    }
    for fleet in fleets {
        leave(fleet, before, judge).await;
    }
    Ok(())
}

async fn in_turn(fleet: &LocalFleet, bad: &[usize], length: Length) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for bad in bad {
        cases.push(case(fleet, *bad, length).await?);
    }
    Ok(cases)
}

async fn case(fleet: &LocalFleet, bad: usize, length: Length) -> Result<Case> {
    let nodes = fleet.providers.len();
    let clients = Clients::new(fleet.discovery()?, 1, DEADLINE, |_| {})?;
    clients.connected(nodes).await?;
    let load = clients.load(RATE, Mark::None);
    for provider in &fleet.providers[..bad] {
        provider.controls().behave(Behaviour::default().failing(1.0, FAILS_IN)).await?;
    }
    let half = Duration::from_millis(length.pick(1_500, 10_000, 20_000));
    let begun = Instant::now();
    let first = ejected_at_most(&clients, begun + half).await;
    let had = entered(fleet).await?;
    let second = ejected_at_most(&clients, begun + half * 2).await;
    let unused = had.iter().zip(entered(fleet).await?).filter(|(had, have)| *had == have).count();

    behave(fleet, Behaviour::default()).await?;
    let well = Instant::now();
    sleep_until(well + half / 2).await;
    load.stop();
    let report = load.report().await;
    let unsent: Vec<_> = report.failures().filter(|call| is_unsent(call)).collect();
    Ok(Case {
        nodes,
        bad,
        calls: report.calls().len(),
        failed: report.failed(),
        unsent: unsent.len(),
        said: unsent.first().and_then(|call| Caller::failure(call)),
        ejected_at_most: first.max(second),
        unused,
        failed_after: report.since(well).filter(|call| call.is_failed()).count(),
        clients,
    })
}

/// The most nodes that were seen ejected at a time until `end`.
async fn ejected_at_most(clients: &Clients, end: Instant) -> usize {
    let mut most = 0;
    while Instant::now() < end {
        most = most.max(clients.nodes().iter().filter(|node| node.ejected_for.is_some()).count());
        sleep_until(end.min(Instant::now() + LOOK)).await;
    }
    most
}

/// How often the `Get` of each provider was entered so far.
async fn entered(fleet: &LocalFleet) -> Result<Vec<u64>> {
    let mut entered = Vec::new();
    for provider in &fleet.providers {
        entered.push(provider.controls().served().await?.get.entered);
    }
    Ok(entered)
}

/// Whether a call failed though no provider was asked.
fn is_unsent(call: &Call<u32, Failure>) -> bool {
    match &call.outcome {
        Outcome::Answered(_) => false,
        Outcome::Failed(failure) => !failure.by_provider && failure.addresses.is_empty(),
        Outcome::Unfinished => true,
    }
}

fn tell(case: &Case, judge: &mut Judge) {
    let Case { nodes, bad, .. } = case;
    judge.told(&format!("| {bad} of {nodes} fail: calls"), case.calls);
    judge.told("failed", case.failed);
    judge.count("without a node", case.unsent, 0);
    if let Some(said) = &case.said {
        judge.note(&format!("{bad} of {nodes}: first call without a node: {said}"));
    }
    judge.count("ejected at most", case.ejected_at_most, ((*nodes as f64 * CAP) as usize).max(1));
    if bad * 2 > *nodes {
        judge.count("unused", case.unused, 0);
    }
    judge.count("failed once well", case.failed_after, 0);
    // Else nothing was put to the test.
    judge.holds(&format!("some calls failed where {bad} of {nodes} did"), case.failed > 0);
}
