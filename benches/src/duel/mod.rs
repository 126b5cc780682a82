//! Two client processes against one server process, in turns: whose call costs less processor time.
//!
//! Every process is one of this binary, has one thread for its runtime and a processor of its own where there
//! are two. A round is two slices of each side in the order ours, peer, peer, ours, so that what changes slowly on
//! the machine meets both alike.

mod child;
mod client;

use std::fmt;

use meshwork_core::BoxError;

pub(crate) use self::{
    child::Child,
    client::{Caller, Sockets, obey},
};
use crate::{
    rounds::{Rounds, Spread},
    verdict::Mode,
};

const ROUNDS: usize = 15;

/// One slice of one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) concurrency: usize,
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
}

impl Order {
    /// A slice long enough for the clock of processor time.
    pub(crate) fn new(concurrency: usize, bytes: usize, mode: Mode) -> Self {
        let calls = match (mode, concurrency) {
            (Mode::Quick, _) => 50,
            (Mode::Full, 1) => 1_500,
            (Mode::Full, _) => 8_000,
        };
        Self { concurrency, calls, bytes }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} B at {}", self.bytes, self.concurrency)
    }
}

/// What one slice cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Microseconds of processor time per call.
    pub(crate) cpu: f64,
    /// Microseconds per call by the wall clock.
    pub(crate) elapsed: f64,
    /// Connections open at its end.
    pub(crate) connections: usize,
}

/// What all rounds came to.
pub(crate) struct Outcome {
    /// Processor time per call, ours over the peer's.
    pub(crate) cpu: Spread,
    pub(crate) ours: f64,
    pub(crate) peer: Spread,
    /// Calls per second, ours over the peer's.
    pub(crate) rate: f64,
    /// Connections of ours and of the peer.
    pub(crate) connections: [usize; 2],
}

/// One side of a duel.
pub(crate) trait Slice {
    /// Has it do the calls of an order, and says what they cost it.
    fn slice(&mut self, order: Order) -> Result<Figures, BoxError>;
}

/// All rounds of one order. The first one warms up.
pub(crate) fn fight<S: Slice>(
    ours: &mut S,
    peer: &mut S,
    order: Order,
    mode: Mode,
) -> Result<Outcome, BoxError> {
    let [mut cpu, mut peer_cpu, mut rate, mut peer_rate] = [const { Rounds::new() }; 4];
    let mut connections = [0; 2];
    for round in 0..=mode.rounds(ROUNDS) {
        let first = ours.slice(order)?;
        let (theirs, again) = (peer.slice(order)?, peer.slice(order)?);
        let last = ours.slice(order)?;
        if round > 0 {
            cpu.push((first.cpu + last.cpu) / 2.0);
            peer_cpu.push((theirs.cpu + again.cpu) / 2.0);
            rate.push(2.0 / (first.elapsed + last.elapsed));
            peer_rate.push(2.0 / (theirs.elapsed + again.elapsed));
        }
        connections = [last.connections, again.connections];
    }
    Ok(Outcome {
        cpu: cpu.over(&peer_cpu).spread(),
        ours: cpu.median(),
        peer: peer_cpu.spread(),
        rate: rate.over(&peer_rate).median(),
        connections,
    })
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, ours, peer, rate, connections } = self;
        let [own, theirs] = connections;
        write!(f, "{cpu} ({ours:.1} / {:.1} us, {own} / {theirs} connections), req/s {rate:.2}", peer.median)
    }
}
