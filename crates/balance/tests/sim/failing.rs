//! Nodes that answer with failures.

use std::sync::Arc;

use meshwork_balance::{Now, P2c};

use crate::{
    seeds,
    world::{Load, MS, Record, Reply, Rng, SECOND, World},
};

fn run(seed: u64, load: &Load, reply: impl FnMut(&mut Rng, usize, u64) -> Reply) -> Record {
    World::new(seed, load, &P2c::default()).run(load, reply)
}

/// Node 0 fails in 1 ms between seconds 15 and 45.
fn one_fails(rng: &mut Rng, node: usize, at: u64) -> Reply {
    if node == 0 && (15 * SECOND..45 * SECOND).contains(&at) {
        Reply::Fails { after: MS }
    } else {
        Reply::Ok { after: rng.between(8 * MS, 12 * MS) }
    }
}

#[test]
fn a_node_that_fails_fast_costs_a_few_calls_and_comes_back() {
    let (mut failed, mut back) = (0, 0u64);
    for seed in 0..seeds(40) {
        let load = Load::new(11, 1_000.0, 60);
        let record = run(seed, &load, one_fails);
        failed = failed.max(record.failed());
        let returned = (45..60)
            .find(|second| record.shares(11, second * SECOND, (second + 1) * SECOND)[0] >= 60)
            .unwrap_or(60);
        back = back.max(returned - 45);
        let share = record.shares(11, 15 * SECOND, 45 * SECOND)[0] as f64 / 30_000.0;
        assert!(share <= 0.001, "seed {seed}: share {share}");
    }
    println!("scenario 5 (sim): {} seeds: at most {failed} failed, back after at most {back} s", seeds(40));
    assert!(failed <= 25 && back <= 10);
}

#[test]
fn a_retry_hides_a_node_that_fails_fast() {
    for seed in 0..seeds(10) {
        let load = Load { retries: 1, ..Load::new(11, 1_000.0, 60) };
        assert_eq!(run(seed, &load, one_fails).failed(), 0, "seed {seed}");
    }
    println!("scenario 5 (sim), with a retry: {} seeds: 0 failed", seeds(10));
}

#[test]
fn never_says_no_node_while_one_accepts() {
    for (nodes, bad) in [(10, 6), (10, 9), (10, 10), (1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3)] {
        let most = (nodes as u32 * 3 / 10).max(1);
        for seed in 0..seeds(4) {
            let load = Load::new(nodes, 500.0, 35);
            let record = run(seed, &load, |rng, node, at| {
                let after = rng.between(8 * MS, 12 * MS);
                let fails = node < bad && at < 20 * SECOND;
                if fails { Reply::Fails { after: MS } } else { Reply::Ok { after } }
            });
            assert_eq!(record.unpicked, 0, "{bad} of {nodes}, seed {seed}");
            assert!(record.ejected_at_most <= most, "{bad} of {nodes}: {} ejected", record.ejected_at_most);
            if bad * 2 > nodes {
                let shares = record.shares(nodes, 10 * SECOND, 20 * SECOND);
                assert!(shares.iter().all(|share| *share > 0), "{bad} of {nodes}: all are used: {shares:?}");
            } else {
                let late =
                    record.calls.iter().filter(|call| (10 * SECOND..20 * SECOND).contains(&call.began));
                let late: Vec<_> = late.collect();
                let ok = late.iter().filter(|call| call.ok).count() as f64 / late.len() as f64;
                assert!(ok >= 0.9, "{bad} of {nodes}, seed {seed}: {ok} ok");
            }
            let uneven = record.unevenness(nodes, 30 * SECOND, 35 * SECOND);
            assert!(uneven <= 0.3, "{bad} of {nodes}, seed {seed}: all good again, but uneven by {uneven}");
        }
    }
    println!("scenario 8 (sim): {} seeds each: always a node, caps kept, all back", seeds(4));
}

#[test]
fn a_failing_node_beyond_the_cap_attracts_no_calls_however_many_wait_elsewhere() {
    let mut worst = 0.0f64;
    for seed in 0..seeds(4) {
        let load = Load::new(10, 5_000.0, 40);
        let record = run(seed, &load, |rng, node, at| {
            let fails = node < 4 && at < 20 * SECOND;
            if fails {
                Reply::Fails { after: MS }
            } else {
                Reply::Ok { after: rng.between(80 * MS, 120 * MS) }
            }
        });
        let late = record.calls.iter().filter(|call| (10 * SECOND..20 * SECOND).contains(&call.began));
        let (failed, all) = late.fold((0, 0), |(failed, all), call| (failed + u32::from(!call.ok), all + 1));
        worst = worst.max(f64::from(failed) / f64::from(all));
        let uneven = record.unevenness(10, 35 * SECOND, 40 * SECOND);
        assert!(uneven <= 0.2, "seed {seed}: all good again, but uneven by {uneven}");
    }
    println!("4 of 10 fail in 1 ms, 5000 rps of 100 ms: at most {:.2} % failed", worst * 100.0);
    assert!(worst <= 0.002, "{worst}");
}

#[test]
fn a_node_that_fails_at_random_is_ejected_within_ten_seconds() {
    const SINCE: u64 = 12 * SECOND;
    let (mut share, mut times) = (0.0f64, Vec::new());
    for seed in 0..seeds(40) {
        let load = Load::new(5, 2_000.0, 30);
        let mut world = World::new(seed, &load, &P2c::default());
        let bad = Arc::clone(&world.channels[0].nodes[0]);
        let mut ejected = None;
        let record = world.run(&load, |rng, node, at| {
            if ejected.is_none() && bad.stats(Now::from_nanos(at)).ejections > 0 {
                ejected = Some(at - SINCE);
            }
            let after = rng.between(8 * MS, 12 * MS);
            let fails = node == 0 && at >= SINCE && rng.chance(0.3);
            if fails { Reply::Fails { after } } else { Reply::Ok { after } }
        });
        times.push(ejected.expect("ejected"));
        share = share.max(record.shares(5, SINCE + 10 * SECOND, 30 * SECOND)[0] as f64 / 16_000.0);
    }
    times.sort_unstable();
    let late = times.iter().filter(|time| **time > 10 * SECOND).count();
    println!(
        "scenario 7a (sim): {} seeds, one of 5 fails 30 % from second 12 on: ejected after {:.1} s in the median, {:.1} s \
         at most ({late} after 10 s), share after 10 s at most {:.1} %",
        times.len(),
        times[times.len() / 2] as f64 / 1e9,
        times[times.len() - 1] as f64 / 1e9,
        share * 100.0
    );
    // By chance a node that fails 30 % of few calls fails no more than 20 % of them for a while.
    assert!(late * 100 <= times.len() && share <= 0.05, "{times:?} {share}");
}

#[test]
fn nodes_that_all_fail_a_little_are_never_ejected() {
    for seed in 0..seeds(10) {
        let load = Load::new(5, 500.0, 60);
        let record = run(seed, &load, |rng, _, _| {
            let after = rng.between(8 * MS, 12 * MS);
            if rng.chance(0.02) { Reply::Fails { after } } else { Reply::Ok { after } }
        });
        assert_eq!(record.ejected_at_most, 0, "seed {seed}");
    }
    println!("scenario 7b (sim): {} seeds, all of 5 fail 2 % for 60 s: never an ejection", seeds(10));
}
