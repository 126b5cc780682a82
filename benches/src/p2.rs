//! P2: a unary gRPC call over our `Channel` against the same call over tonic's.
//!
//! The figure is the client's processor time per call. Ours has its whole layer stack on: deadline, retries,
//! balancing, statistics, connection care; tonic's is the raw one to one address.

use meshwork_core::BoxError;

use crate::{
    duel::{self, Child, Order},
    verdict::{Findings, Mode, Verdict},
};

const SIZES: [usize; 2] = [64, 1024];
const CONCURRENCY: [usize; 3] = [1, 64, 256];

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let mut server = Child::start(&["grpc-server", "1"])?;
    let addr = server.read()?;
    let mut ours = Child::start(&["grpc-ours", &addr])?;
    let mut peer = Child::start(&["grpc-tonic", &addr])?;
    let mut findings = Findings::new(mode);
    for bytes in SIZES {
        for concurrency in CONCURRENCY {
            let order = Order::new(concurrency, bytes, mode);
            let outcome = duel::fight(&mut ours, &mut peer, order, mode)?;
            findings.text(format!("{order}: {outcome}"));
            findings.at_most(outcome.cpu.median, 1.0, &order);
            findings.steady(outcome.peer, &order);
            findings.hold(outcome.connections[0] == outcome.connections[1], "as many connections", &order);
        }
    }
    Ok(findings.verdict("P2 unary gRPC, client CPU per call, our Channel / raw tonic Channel"))
}
