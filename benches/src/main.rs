//! `bench PN [--quick]`: one performance experiment, always as a ratio against a peer in the same run.
//!
//! Prints one line with its figures last, and exits non-zero when a goal is missed; 77 when the machine was
//! too restless for the comparison to mean anything. `--quick` only shows that the experiment runs.

#[path = "../../crates/balance/tests/sim/antagonist/model.rs"]
mod antagonist;
mod cpu;
mod duel;
mod fleet;
mod grpc;
mod h1;
mod life;
mod p1;
mod p10;
mod p2;
mod p4;
mod p5;
mod p6;
mod p7;
mod p8;
mod p9;
mod rounds;
mod verdict;
#[expect(dead_code, reason = "the balancer's simulations use all of it")]
#[path = "../../crates/balance/tests/sim/world.rs"]
mod world;

use std::process::ExitCode;

use meshwork_core::BoxError;

use crate::verdict::{Mode, Verdict};

const USAGE: &str = "usage: bench NAME [--quick]
  P1   pick + record against tower's p2c with peak-EWMA
  P2   a unary gRPC call over our Channel against tonic's
  P4   a server that is an App against raw axum and tonic
  P5   one change in, picker stored, against copying a Vec<Arc>
  P6   from a put in etcd to the first answer of the new instance
  P7   memory per endpoint, and what watching 1 000 services costs
  P8   one slow node of eleven: p99 against round robin and tower
  P9   how far shared machines can be loaded until a call misses its deadline
  P10  retry, hedging and limits against plain: their cost and their use
  H1   HTTP/1.1 against hyper-util's client and reqwest
  START  from spawn to serving, on each registry
  IDLE   memory, context switches and CPU of a service nobody calls, on each registry";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mode = if args.last() == Some(&"--quick") { Mode::Quick } else { Mode::Full };
    if mode == Mode::Quick {
        args.pop();
    }
    let Some((name, rest)) = args.split_first() else { return Verdict::unusable(USAGE).tell() };
    let measured = match (name.to_ascii_uppercase().as_str(), rest) {
        ("P1", []) => p1::run(mode),
        ("P2", []) => p2::run(mode),
        ("P4", []) => p4::run(mode),
        ("P5", []) => p5::run(mode),
        ("P6", []) => p6::run(mode),
        ("P7", []) => p7::run(mode),
        ("P8", []) => p8::run(mode),
        ("P9", []) => p9::run(mode),
        ("P10", []) => p10::run(mode),
        ("H1", []) => h1::run(mode),
        ("START", []) => life::start(mode),
        ("IDLE", []) => life::idle(mode),
        _ => return part(name, rest),
    };
    measured.unwrap_or_else(|error| Verdict::unusable(format!("{name}: {error}"))).tell()
}

/// One of the processes that an experiment consists of.
fn part(role: &str, args: &[&str]) -> ExitCode {
    let ended: Result<(), BoxError> = match (role, args) {
        ("p8", args) => p8::part(args),
        ("grpc-server", [count]) => count.parse().map_err(BoxError::from).and_then(grpc::server),
        ("grpc-ours", addrs) => grpc::client(grpc::Kind::Ours, addrs),
        ("grpc-full", addrs) => grpc::client(grpc::Kind::Full, addrs),
        ("grpc-tonic", addrs) => grpc::client(grpc::Kind::Tonic, addrs),
        ("p4-ours", []) => p4::server(p4::Kind::Ours),
        ("p4-axum", []) => p4::server(p4::Kind::Axum),
        ("p4-tonic", []) => p4::server(p4::Kind::Tonic),
        ("p4-http", [addr]) => p4::client(addr),
        ("p10-server", []) => p10::server(),
        ("h1-server", []) => h1::server(),
        ("h1-ours", [addr]) => h1::client(h1::Kind::Ours, addr),
        ("h1-hyper-util", [addr]) => h1::client(h1::Kind::HyperUtil, addr),
        ("h1-reqwest", [addr]) => h1::client(h1::Kind::Reqwest, addr),
        _ => return Verdict::unusable(USAGE).tell(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{role}: {error}");
            ExitCode::FAILURE
        }
    }
}
