//! P4: what a server costs that is an `App` with its defaults (limits, time-outs, panic guard, health, drain tracking,
//! readiness, a registration that is kept) against `axum::serve` and tonic's `Server`, raw.
//!
//! The figure is requests per second of the server's processor time. Every server and every client is a process of
//! this binary; the clients are the same for both, closed-loop, with a connection per caller over HTTP/1.1 and one
//! connection over HTTP/2.

mod client;
mod server;

use meshwork_core::BoxError;

pub(crate) use self::{
    client::run as client,
    server::{Kind, run as server},
};
use crate::{
    duel::{self, Child, Figures, Order, Slice},
    verdict::{Findings, Mode, Verdict},
};

pub(crate) const BYTES: usize = 64;
const CONCURRENCY: [usize; 3] = [1, 64, 256];
/// The client's role, what it speaks, and the server that it is a peer of.
const PROTOCOLS: [(&str, &str, &str); 2] =
    [("p4-http", "HTTP/1.1", "p4-axum"), ("grpc-tonic", "gRPC", "p4-tonic")];
const GOAL: f64 = 0.95;

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let mut findings = Findings::new(mode);
    for (client, protocol, peer) in PROTOCOLS {
        let (mut ours, mut peer) = (Served::start("p4-ours", client)?, Served::start(peer, client)?);
        for concurrency in CONCURRENCY {
            let order = Order::new(concurrency, BYTES, mode);
            let outcome = duel::fight(&mut ours, &mut peer, order, mode)?;
            let place = format!("{protocol} {order}");
            let per_cpu = outcome.cpu.inverse();
            findings.text(format!("{place}: {per_cpu}; CPU {outcome}"));
            findings.at_least(per_cpu.median, GOAL, &place);
            findings.steady(outcome.peer, &place);
            findings.hold(outcome.connections[0] == outcome.connections[1], "as many connections", &place);
        }
    }
    Ok(findings.verdict("P4 requests per CPU second of the server, our App / raw axum and tonic"))
}

/// A server that is measured, and the client that keeps it busy.
struct Served {
    server: Child,
    client: Child,
}

impl Served {
    fn start(server: &str, client: &str) -> Result<Self, BoxError> {
        let mut server = Child::start(&[server])?;
        let addr = server.read()?;
        Ok(Self { server, client: Child::start(&[client, &addr])? })
    }

    /// Microseconds of processor time that the server has used so far.
    fn used(&mut self) -> Result<f64, BoxError> {
        Ok(self.server.ask("cpu")?.parse()?)
    }
}

impl Slice for Served {
    fn slice(&mut self, order: Order) -> Result<Figures, BoxError> {
        let before = self.used()?;
        let figures = self.client.slice(order)?;
        Ok(Figures { cpu: (self.used()? - before) / order.calls as f64, ..figures })
    }
}
