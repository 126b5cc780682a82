//! Links that are cut, and all nodes at once.

use meshwork_balance::P2c;

use crate::{
    seeds,
    world::{Load, MS, Record, Reply, Rng, SECOND, World},
};

/// The link to node 0 swallows everything between seconds 5 and 65.
fn black_hole(rng: &mut Rng, node: usize, at: u64) -> Reply {
    let swallowed = node == 0 && (5 * SECOND..65 * SECOND).contains(&at);
    Reply::Ok { after: if swallowed { 1_000 * SECOND } else { rng.between(8 * MS, 12 * MS) } }
}

/// The owner of the connection finds it dead after at most `found` s, and has another after at most 5 s of
/// back-off once the link is healed.
fn cut(seed: u64, found: u64, load: Load) -> (Record, u64) {
    let mut rng = Rng::new(!seed);
    let back = 65 * SECOND + rng.between(0, 5 * SECOND);
    let gone = 5 * SECOND + rng.between(found * SECOND / 2, found * SECOND);
    let load = Load { deadline: 2 * SECOND, links: vec![(gone, 0, false), (back, 0, true)], ..load };
    (World::new(seed, &load, &P2c::default()).run(&load, black_hole), back)
}

#[test]
fn a_black_hole_costs_as_little_as_a_frozen_node() {
    for (how, found) in [("by ping", 13), ("without ping", 20)] {
        let (mut worst, mut above, mut share) = (0, 0, 1.0f64);
        for seed in 0..seeds(20) {
            let (record, _) = cut(seed, found, Load::new(3, 500.0, 80));
            worst = worst.max(record.failed());
            above += usize::from(record.failed() > 5);
            let late = record.shares(3, 75 * SECOND, 80 * SECOND);
            share = share.min(late[0] as f64 * 3.0 / late.iter().sum::<usize>() as f64);
        }
        println!(
            "scenario 3 (sim): {} seeds, 500 rps, link to one of 3 cut for 60 s, found dead {how}: at most {worst} \
             time-outs, above 5 in {above}; share 10 s after {:.0} %",
            seeds(20),
            share * 100.0
        );
        assert!(worst <= 5 && share >= 0.8, "{worst} {share}");
    }
}

#[test]
fn a_black_hole_costs_nothing_with_an_attempt_time_out_and_a_retry() {
    let (mut p99, mut max) = (0, 0);
    for seed in 0..seeds(20) {
        let load = Load { attempt_timeout: Some(250 * MS), retries: 1, ..Load::new(3, 500.0, 80) };
        let (record, _) = cut(seed, 13, load);
        assert_eq!(record.failed(), 0, "seed {seed}");
        p99 = p99.max(record.quantile(0.99));
        max = max.max(record.quantile(1.0));
    }
    println!("scenario 3 (sim), 250 ms + retry: p99 {} ms, max {} ms", p99 / MS, max / MS);
    assert!(p99 <= 30 * MS && max <= 700 * MS);
}

#[test]
fn all_is_well_again_two_seconds_after_all_nodes_failed() {
    let (mut least, mut uneven) = (1.0f64, 0.0f64);
    for seed in 0..seeds(20) {
        let load = Load::new(5, 1_000.0, 30);
        let record = World::new(seed, &load, &P2c::default()).run(&load, |rng, _, at| {
            if (5 * SECOND..15 * SECOND).contains(&at) {
                Reply::Fails { after: MS }
            } else {
                Reply::Ok { after: rng.between(8 * MS, 12 * MS) }
            }
        });
        assert_eq!(record.unpicked, 0, "seed {seed}: no node");
        let late = || record.calls.iter().filter(|call| call.began >= 17 * SECOND);
        least = least.min(late().filter(|call| call.ok).count() as f64 / late().count() as f64);
        // By then the last ejection, of 8 s and a fifth, has ended.
        uneven = uneven.max(record.unevenness(5, 25 * SECOND, 30 * SECOND));
    }
    println!(
        "scenario 9 (sim, without the budget, which is the client's): {} seeds, all of 5 fail for 10 s: 2 s after \
         {:.2} % OK, 10 s after shares within {:.0} %",
        seeds(20),
        least * 100.0,
        uneven * 100.0
    );
    assert!(least >= 0.999 && uneven <= 0.3, "{least} {uneven}");
}
