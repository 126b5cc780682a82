//! P9: the load at which the first call misses its deadline where machines are shared.

use crate::seeds;

mod model;

use self::model::{POLICIES, ramp};

#[test]
fn a_load_above_what_nodes_are_entitled_to_is_carried_by_those_that_can() {
    let seeds = seeds(3);
    for clients in [1, 10] {
        for (name, policy) in POLICIES {
            let mut firsts: Vec<f64> = (0..seeds).map(|seed| ramp(seed, clients, policy)).collect();
            firsts.sort_unstable_by(f64::total_cmp);
            let (least, median) = (firsts[0], firsts[firsts.len() / 2]);
            let below = firsts.iter().filter(|first| **first < 1.41).count();
            println!(
                "P9 (sim): {seeds} seeds, {clients} clients, {name}: first deadline miss at {median:.2} x allocation, \
                 at least {least:.2} (below 1.41 in {below})"
            );
            match name {
                // In one seed of 200 the nodes have 1.32 at a load of 1.27, when all are equally full.
                "p2c" => assert!(below * 100 <= firsts.len(), "{firsts:?}"),
                "round robin" => assert!(median <= 1.03, "{firsts:?}"),
                _ => {}
            }
        }
    }
}
