//! H1: plain HTTP/1.1 requests per CPU second over our `Channel`, against hyper-util's pooled client and reqwest.
//!
//! All three read a small answer of a server that speaks HTTP/1.1 to them, without TLS, with `TCP_NODELAY`, each
//! with a pool that holds a connection per caller. Ours is used by its verbs, with its whole layer stack on.

mod client;
mod server;

use meshwork_core::BoxError;

pub(crate) use self::{
    client::{Kind, run as client},
    server::run as server,
};
use crate::{
    duel::{self, Child, Order},
    verdict::{Findings, Mode, Verdict},
};

const BYTES: usize = 64;
const CONCURRENCY: [usize; 3] = [1, 16, 64];
/// Requests per CPU second, ours over each peer's: the least that is aimed at.
const PEERS: [(&str, &str, f64); 2] = [("h1-hyper-util", "hyper-util", 0.95), ("h1-reqwest", "reqwest", 1.1)];

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let mut server = Child::start(&["h1-server"])?;
    let addr = server.read()?;
    let mut findings = Findings::new(mode);
    for (role, name, goal) in PEERS {
        for concurrency in CONCURRENCY {
            // Anew: pools keep connections for a while.
            let (mut ours, mut peer) = (Child::start(&["h1-ours", &addr])?, Child::start(&[role, &addr])?);
            let order = Order::new(concurrency, BYTES, mode);
            let outcome = duel::fight(&mut ours, &mut peer, order, mode)?;
            let place = format!("{name} at {concurrency}");
            let per_cpu = outcome.cpu.inverse();
            findings.text(format!("{place}: {per_cpu}; CPU {outcome}"));
            findings.at_least(per_cpu.median, goal, &place);
            findings.steady(outcome.peer, &place);
            findings.hold(outcome.connections[0] == outcome.connections[1], "as many connections", &place);
        }
    }
    Ok(findings.verdict("H1 GET over HTTP/1.1, requests per CPU second, our Channel / peer"))
}
