//! P2: a unary gRPC call over our `Channel` against the same call over tonic's.
//!
//! The server, our client and the peer each are a process of this binary with one thread for its runtime; one
//! connection each. The figure is the client's processor time per call, over interleaved rounds.

mod child;
mod client;
mod echo;
mod server;

use meshwork_core::BoxError;

use self::child::Child;
pub(crate) use self::{client::Kind, client::serve_rounds as client, server::run as server};
use crate::{rounds::Rounds, verdict::Verdict};

const ROUNDS: usize = 13;
const SIZES: [usize; 2] = [64, 1024];
const CONCURRENCY: [usize; 3] = [1, 64, 256];

/// One round of one client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) concurrency: usize,
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
}

pub(crate) fn run() -> Verdict {
    match measure() {
        Ok(verdict) => verdict,
        Err(error) => Verdict::unusable(format!("P2: {error}")),
    }
}

fn measure() -> Result<Verdict, BoxError> {
    let mut server = Child::start("p2-server", None)?;
    let addr = server.read()?;
    let mut ours = Child::start("p2-ours", Some(&addr))?;
    let mut peer = Child::start("p2-peer", Some(&addr))?;
    let (mut texts, mut misses, mut uneven) = (Vec::new(), Vec::new(), Vec::new());
    for bytes in SIZES {
        for concurrency in CONCURRENCY {
            let calls = if concurrency == 1 { 4_000 } else { 20_000 };
            let order = Order { concurrency, calls, bytes };
            let [mut cpu, mut peer_cpu, mut rate, mut peer_rate] = [const { Rounds::new() }; 4];
            for round in 0..=ROUNDS {
                let (mine, theirs) = if round % 2 == 0 {
                    let mine = ours.round(order)?;
                    (mine, peer.round(order)?)
                } else {
                    let theirs = peer.round(order)?;
                    (ours.round(order)?, theirs)
                };
                // The first round warms up.
                if round > 0 {
                    cpu.push(mine.cpu);
                    peer_cpu.push(theirs.cpu);
                    rate.push(1.0 / mine.elapsed);
                    peer_rate.push(1.0 / theirs.elapsed);
                }
            }
            let ratio = cpu.over(&peer_cpu).spread();
            let place = format!("{bytes} B at {concurrency}");
            texts.push(format!(
                "{place}: {ratio} ({:.1} / {:.1} us), req/s {:.2}",
                cpu.median(),
                peer_cpu.median(),
                rate.over(&peer_rate).median()
            ));
            if ratio.median > 1.0 {
                misses.push(format!("{place} above 1.0"));
            }
            if peer_cpu.spread().swing() > 0.1 {
                uneven.push(place);
            }
        }
    }
    let line = format!(
        "P2 unary gRPC, client CPU per call, our Channel / raw tonic Channel, {ROUNDS} rounds: {}",
        texts.join("; ")
    );
    Ok(Verdict::judged(&line, &misses, &uneven))
}
