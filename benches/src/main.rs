//! `bench PN`: one performance experiment, always as a ratio against a peer in the same run.
//!
//! Prints one line with its figures last, and exits non-zero when a goal is missed; 77 when the machine was
//! too restless for the comparison to mean anything.

mod cpu;
mod fleet;
mod p1;
mod p2;
mod p5;
mod p6;
mod p7;
mod rounds;
mod verdict;

use std::process::ExitCode;

use meshwork_core::BoxError;

use crate::verdict::Verdict;

const USAGE: &str = "usage: bench P1 | P2 | P5 | P6 | P7
  P1  pick + record against tower's p2c with peak-EWMA
  P2  a unary gRPC call over our Channel against tonic's
  P5  one change in, picker stored, against copying a Vec<Arc>
  P6  from a put in etcd to the first answer of the new instance
  P7  memory per endpoint";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let verdict = match args[..] {
        ["P1" | "p1"] => p1::run(),
        ["P2" | "p2"] => p2::run(),
        ["P5" | "p5"] => p5::run(),
        ["P6" | "p6"] => p6::run(),
        ["P7" | "p7"] => p7::run(),
        // The processes of P2.
        ["p2-server"] => return child("p2-server", p2::server()),
        ["p2-ours", addr] => return child("p2-ours", p2::client(p2::Kind::Ours, addr)),
        ["p2-peer", addr] => return child("p2-peer", p2::client(p2::Kind::Tonic, addr)),
        _ => Verdict::unusable(USAGE),
    };
    verdict.tell()
}

fn child(role: &str, ended: Result<(), BoxError>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{role}: {error}");
            ExitCode::FAILURE
        }
    }
}
