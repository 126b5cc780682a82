//! P10: what retries, hedging and limits cost when nothing is wrong, and what hedging mends when 1 % of the answers
//! take a hundred times as long.

mod server;
mod tail;

use meshwork_core::BoxError;

pub(crate) use self::server::run as server;
use crate::{
    duel::{self, Child, Order},
    verdict::{Findings, Mode, Verdict},
};

const CONCURRENCY: [usize; 2] = [1, 64];

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let mut findings = Findings::new(mode);
    happy_path(mode, &mut findings)?;
    tail::measure(mode, &mut findings)?;
    Ok(findings.verdict("P10 retry + hedge + limits against plain"))
}

/// Requests per CPU second of a gRPC client with all of it on, over one with nothing but defaults.
fn happy_path(mode: Mode, findings: &mut Findings) -> Result<(), BoxError> {
    let mut server = Child::start(&["grpc-server", "2"])?;
    let addrs = server.read()?;
    let addrs: Vec<&str> = addrs.split(' ').collect();
    let start = |role| Child::start(&[&[role], &addrs[..]].concat());
    let (mut full, mut plain) = (start("grpc-full")?, start("grpc-ours")?);
    for concurrency in CONCURRENCY {
        let order = Order::new(concurrency, 64, mode);
        let outcome = duel::fight(&mut full, &mut plain, order, mode)?;
        let per_cpu = outcome.cpu.inverse();
        findings.text(format!("{order}: requests per CPU second {per_cpu}; CPU {outcome}"));
        findings.at_least(per_cpu.median, 0.97, &order);
        findings.steady(outcome.peer, &order);
    }
    Ok(())
}
