//! P9: nodes on machines that others use too, under a load that grows; the simulation is the balancer's own.
//!
//! Round robin and weighted round robin are ours; tower's p2c with peak-EWMA is modelled, because its clock cannot be
//! simulated.

use meshwork_core::BoxError;

use crate::{
    antagonist::{POLICIES, ramp},
    rounds::Rounds,
    verdict::{Findings, Mode, Verdict},
};

const SEEDS: u64 = 30;
const GOAL: f64 = 1.41;

pub(crate) fn run(mode: Mode) -> Result<Verdict, BoxError> {
    let seeds = mode.of(SEEDS, 1);
    let mut findings = Findings::new(mode);
    for clients in mode.of(&[1, 10][..], &[1]) {
        let mut texts = Vec::new();
        for (name, policy) in POLICIES {
            let firsts = Rounds::from_iter((0..seeds).map(|seed| ramp(seed, *clients, policy)));
            let (median, least) = (firsts.median(), firsts.quantile(0.0));
            texts.push(format!("{name} {median:.2} (least {least:.2})"));
            if name == "p2c" {
                findings.at_least(median, GOAL, &format!("p2c of {clients}"));
            }
        }
        findings.text(format!("{clients} clients: {}", texts.join(", ")));
    }
    Ok(findings.verdict(&format!("P9 first deadline miss at so many times the allocation, {seeds} seeds")))
}
