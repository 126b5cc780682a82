//! Canaries, lanes, percentages.

use meshwork_balance::{Fallback, Hint, Outcome, P2c, Policy, Subset, SubsetId, Subsets};

use crate::fleet::{Ask, Fleet};

const CANARY: SubsetId = SubsetId::of("canary");

/// The last `canaries` of `count` nodes belong to the deployment `canary`.
fn fleet(count: usize, canaries: usize) -> Fleet {
    let mut fleet = Fleet::of(count);
    fleet.warm();
    fleet.records.iter_mut().skip(count - canaries).for_each(|record| record.deployment = "canary".into());
    fleet
}

fn canary(share: f64) -> Subsets {
    Subsets::of(P2c::default()).with(Subset::named("canary").deployment("canary").share(share))
}

/// Which of the keys go to a node from `from` on.
fn moved(fleet: &mut Fleet, policy: &Subsets, keys: u64, from: usize) -> Vec<bool> {
    let picker = policy.picker(fleet.members());
    (0..keys).map(|key| fleet.call(&*picker, Hint::Hash(key)) >= from).collect()
}

#[test]
fn nobody_goes_back_while_a_share_grows() {
    let mut fleet = fleet(4, 1);
    let mut before = vec![false; 10_000];
    for share in [0.0, 0.05, 0.2, 0.5, 1.0] {
        let now = moved(&mut fleet, &canary(share), 10_000, 3);
        assert!(before.iter().zip(&now).all(|(before, now)| now >= before), "at {share}");
        let part = now.iter().filter(|moved| **moved).count() as f64 / 10_000.0;
        assert!((part - share).abs() < 0.01, "{part} for {share}");
        before = now;
    }
}

#[test]
fn one_per_cent_is_one_per_cent_with_three_and_one_instances() {
    let mut fleet = fleet(4, 1);
    let picker = canary(0.01).picker(fleet.members());
    let shares = fleet.shares(&*picker, 100_000, 1);
    assert!((shares[3] as f64 / 100_000.0 - 0.01).abs() < 0.002, "{shares:?}");
}

#[test]
fn a_key_stays_with_its_version_though_all_its_instances_are_replaced() {
    let mut fleet = fleet(6, 3);
    let first = moved(&mut fleet, &canary(0.3), 2_000, 3);
    for _ in 0..3 {
        let new = fleet.add(meshwork_balance::Now::from_nanos(1));
        fleet.records[new].deployment = "canary".into();
    }
    fleet.warm();
    let picker = canary(0.3).picker(fleet.without(&[3, 4, 5]));
    let later: Vec<_> = (0..2_000).map(|key| fleet.call(&*picker, Hint::Hash(key)) >= 3).collect();
    assert_eq!(first, later);
}

#[test]
fn several_shares_are_kept_side_by_side() {
    let mut fleet = Fleet::of(4);
    fleet.warm();
    for (record, version) in fleet.records.iter_mut().zip(["1", "2", "3", "3"]) {
        record.app_version = version.into();
    }
    let policy = Subsets::of(P2c::default())
        .with(Subset::named("one").version("1").share(0.5))
        .with(Subset::named("two").version("2").share(0.3))
        .with(Subset::named("three").version("3").share(0.2));
    let picker = policy.picker(fleet.members());
    let by_chance = fleet.shares(&*picker, 20_000, 1);
    let mut by_hash = vec![0; 4];
    (0..20_000).for_each(|key| by_hash[fleet.call(&*picker, Hint::Hash(key))] += 1);
    for shares in [by_chance, by_hash] {
        for (has, fair) in [(shares[0], 0.5), (shares[1], 0.3), (shares[2] + shares[3], 0.2)] {
            assert!((has as f64 / 20_000.0 - fair).abs() < 0.02, "{shares:?}");
        }
    }
}

/// The nodes that calls which ask for `subset` meet, or what they are told.
fn met(fleet: &mut Fleet, policy: &Subsets, subset: Option<SubsetId>) -> Result<Vec<usize>, String> {
    let picker = policy.picker(fleet.members());
    let mut met = Vec::new();
    for _ in 0..60 {
        met.push(fleet.ask(&*picker, Ask { subset, ..Ask::default() })?.0);
    }
    met.sort_unstable();
    met.dedup();
    Ok(met)
}

#[test]
fn a_lane_goes_to_its_own_and_falls_back_as_its_rule_says() {
    let blue = |fallback| {
        let blue = Subset::named("blue").label("lane", "blue").fallback(fallback);
        let green = Subset::named("green").label("lane", "green");
        Subsets::of(P2c::default()).with(blue).with(green)
    };
    let id = Some(SubsetId::of("blue"));
    // What is there of blue, and of all five: node 3 is blue, node 4 is green.
    type Met = Result<Vec<usize>, String>;
    let empty = || -> Met { Err("Nothing(EmptySubset)".into()) };
    let wait = || -> Met { Err("Wait".into()) };
    let table: [(Fallback, [Met; 3]); 3] = [
        (Fallback::Strict, [Ok(vec![3]), wait(), empty()]),
        (Fallback::Base, [Ok(vec![3]), Ok(vec![0, 1, 2]), Ok(vec![0, 1, 2])]),
        (Fallback::Any, [Ok(vec![3]), Ok(vec![0, 1, 2, 4]), Ok(vec![0, 1, 2, 4])]),
    ];
    for (fallback, [there, unconnected, gone]) in table {
        let mut fleet = Fleet::of(5);
        fleet.warm();
        fleet.records[3].labels.set("lane", "blue");
        fleet.records[4].labels.set("lane", "green");
        let policy = blue(fallback);
        assert_eq!(met(&mut fleet, &policy, id), there, "{fallback:?}, there");
        assert_eq!(met(&mut fleet, &policy, None), Ok(vec![0, 1, 2]), "calls without a colour");
        let unknown = Some(SubsetId::of("red"));
        assert_eq!(met(&mut fleet, &policy, unknown), Ok(vec![0, 1, 2]), "a colour nobody has here");
        fleet.nodes[3].set_ready(false);
        assert_eq!(met(&mut fleet, &policy, id), unconnected, "{fallback:?}, unconnected");
        fleet.records[3].status = meshwork_core::Status::Leaving;
        assert_eq!(met(&mut fleet, &policy, id), gone, "{fallback:?}, gone");
    }
}

#[test]
fn a_failing_canary_hands_its_calls_to_the_base() {
    let mut fleet = fleet(4, 1);
    fleet.fail(3);
    assert_eq!(met(&mut fleet, &canary(0.0), Some(CANARY)), Ok(vec![0, 1, 2]));
    fleet.wait(1_300);
    let met = met(&mut fleet, &canary(0.0), Some(CANARY)).unwrap();
    assert!(met.contains(&3), "its probe is a call of its own: {met:?}");
}

#[test]
fn a_slow_canary_is_not_the_norm_for_all() {
    let mut fleet = fleet(10, 1);
    let picker = canary(0.1).picker(fleet.members());
    for _ in 0..2_000 {
        let (index, ticket) = fleet.pick(&*picker, Hint::Any);
        let took = std::time::Duration::from_millis(if index == 9 { 500 } else { 10 });
        ticket.finish(fleet.now().after(took), Outcome::Success);
        fleet.wait(5);
        let median = fleet.peers.median().unwrap_or_default();
        assert!(median.as_millis() < 20, "{median:?}");
    }
}

#[test]
fn when_each_instance_is_in_a_subset_calls_of_none_go_to_all() {
    let mut fleet = fleet(3, 3);
    assert_eq!(met(&mut fleet, &canary(0.0), None), Ok(vec![0, 1, 2]));
}

#[test]
fn conditions_are_joined_and_rules_are_replaced_by_name() {
    let mut fleet = Fleet::of(3);
    fleet.warm();
    fleet.records[1].app_version = "2".into();
    fleet.records[2].app_version = "2".into();
    fleet.records[2].labels.set("lane", "blue");
    let both = Subset::named("x").version("2").label("lane", "blue").strict();
    let rules = Subsets::of(P2c::default()).with(Subset::named("x").version("1").strict()).with(both);
    assert_eq!(met(&mut fleet, &rules, Some(SubsetId::of("x"))), Ok(vec![2]));
    assert_eq!(met(&mut fleet, &Subsets::of(P2c::default()), Some(CANARY)), Ok(vec![0, 1, 2]), "no rules");
}

#[test]
fn shares_out_of_range_are_clamped() {
    let mut fleet = fleet(4, 1);
    for (share, expected) in [(f64::NAN, vec![0, 1, 2]), (-1.0, vec![0, 1, 2]), (7.0, vec![3])] {
        assert_eq!(met(&mut fleet, &canary(share), None), Ok(expected), "{share}");
    }
}
