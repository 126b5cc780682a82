//! P8: one of eleven nodes is slow for half the time, on real sockets: the 99th percentile of what callers wait.
//!
//! Nodes take about 167 ms, one takes 2 s for the middle half of each round; calls come 1 000 times a second, with 5 s
//! each. Ours, round robin and tower's p2c over peak-EWMA of tonic channels call the same nodes at the same time, each
//! from a process of its own, so that what happens on the machine happens to all three.

mod caller;
mod node;
mod peer;
mod work;

use std::time::Duration;

use meshwork_core::BoxError;
use meshwork_testkit::{
    load::Load,
    process::{Process, Program},
};
use tokio::time::sleep;
use tonic::{client::Grpc, transport::Endpoint};

use crate::{
    rounds::Rounds,
    verdict::{Findings, Mode, Verdict},
};

const NODES: usize = 11;
const SLOW: Duration = Duration::from_secs(2);
const ROUNDS: usize = 11;
/// Our p99, as a part of round robin's.
const GOAL: f64 = 0.11;
/// How long a process may take until it answers, and until it ends.
const LIMIT: Duration = Duration::from_secs(60);

/// Who calls.
const KINDS: [&str; 3] = ["ours", "round-robin", "tower"];

/// What one caller saw in one round.
struct Seen {
    /// In milliseconds.
    p50: f64,
    p99: f64,
    failed: u64,
}

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(mode))
}

/// One of its processes.
pub(crate) fn part(args: &[&str]) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args {
        ["nodes"] => runtime.block_on(node::serve(NODES)),
        ["caller", kind, rate, seconds, seed, addrs @ ..] => {
            let lasting = Duration::from_secs(seconds.parse()?);
            let plan = Load::rate(rate.parse()?).lasting(lasting).seed(seed.parse()?);
            runtime.block_on(caller::call(kind, plan, addrs))
        }
        _ => Err(format!("P8 has no part {args:?}").into()),
    }
}

async fn measure(mode: Mode) -> Result<Verdict, BoxError> {
    let nodes = start(&["nodes"])?;
    let addrs = nodes.wait_for_line(|_| true, LIMIT).await?;
    let addrs: Vec<&str> = addrs.split(' ').collect();
    let mut p99 = [const { Rounds::new() }; 3];
    let mut p50 = [const { Rounds::new() }; 3];
    let mut failed = [0; 3];
    let rounds = mode.rounds(ROUNDS);
    for round in 0..rounds {
        let seen = one(round, mode, &addrs).await?;
        for (kind, seen) in seen.into_iter().enumerate() {
            p99[kind].push(seen.p99);
            p50[kind].push(seen.p50);
            failed[kind] += seen.failed;
        }
    }
    nodes.stop(LIMIT).await?;

    let mut findings = Findings::new(mode);
    for (kind, name) in KINDS.iter().enumerate() {
        let (p50, p99, failed) = (p50[kind].spread(), p99[kind].spread(), failed[kind]);
        findings.text(format!("{name}: p50 {p50} ms, p99 {p99} ms, {failed} failed"));
    }
    let [ours, robin, tower] = &p99;
    let ratio = ours.over(robin).spread();
    findings.text(format!("p99 ours / round robin {ratio}, ours / tower {}", ours.over(tower).spread()));
    findings.at_most(ratio.median, GOAL, &"p99 ours / round robin");
    findings.steady(robin.spread(), &"p99 ours / round robin");
    findings.hold(failed[0] == 0, "without a failure", "ours");
    Ok(findings.verdict(&format!("P8 one of {NODES} nodes slow for half the time, {rounds} rounds")))
}

fn start(args: &[&str]) -> Result<Process, BoxError> {
    Ok(Program::new(std::env::current_exe()?).arg("p8").args(args).start()?)
}

/// One round of all three.
async fn one(round: usize, mode: Mode, addrs: &[&str]) -> Result<Vec<Seen>, BoxError> {
    let (rate, lasting) = mode.of((1_000, Duration::from_secs(20)), (100, Duration::from_secs(4)));
    let (rate, seconds, seed) = (rate.to_string(), lasting.as_secs().to_string(), (round + 1).to_string());
    let mut callers = Vec::new();
    for kind in KINDS {
        let mut args = vec!["caller", kind, &rate, &seconds, &seed];
        args.extend(addrs);
        callers.push(start(&args)?);
    }
    for caller in &callers {
        caller.wait_for_line(|line| line == caller::READY, LIMIT).await?;
    }
    let first = addrs.first().ok_or("there is a node")?;
    let mut first = Grpc::new(Endpoint::from_shared(format!("http://{first}"))?.connect().await?);
    sleep(lasting / 4).await;
    work::call(&mut first, work::Order::taking(Some(SLOW))).await?;
    sleep(lasting / 2).await;
    work::call(&mut first, work::Order::taking(None)).await?;
    let mut seen = Vec::new();
    for caller in callers {
        let line = caller.wait_for_line(|_| true, LIMIT).await?;
        let words = line.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>()?;
        let [p50, p99, failed] = words[..] else { return Err(format!("`{line}` is no figure").into()) };
        seen.push(Seen { p50, p99, failed: failed as u64 });
        caller.ended(LIMIT).await?;
    }
    Ok(seen)
}
