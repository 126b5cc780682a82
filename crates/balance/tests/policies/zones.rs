//! The own zone first.

use meshwork_balance::{Hint, NodeKey, P2c, Policy, RingHash, RoundRobin, ZoneAware};

use crate::fleet::{Ask, Fleet};

/// Nodes in zones: so many in each.
fn spread(zones: &[(&'static str, usize)]) -> Fleet {
    let names: Vec<_> = zones.iter().flat_map(|(zone, count)| std::iter::repeat_n(*zone, *count)).collect();
    let fleet = Fleet::of(names.len()).zones(&names);
    fleet.warm();
    fleet
}

/// The part of the calls that each zone gets.
fn parts(fleet: &mut Fleet, policy: &dyn Policy, zones: &[&str]) -> Vec<f64> {
    let picker = policy.picker(fleet.members());
    let shares = fleet.shares(&*picker, 4_000, 1);
    let part = |zone: &&str| {
        let in_zone = fleet.records.iter().zip(&shares).filter(|(record, _)| &*record.zone == *zone);
        in_zone.map(|(_, share)| *share).sum::<usize>() as f64 / 4_000.0
    };
    zones.iter().map(part).collect()
}

#[test]
fn calls_stay_in_a_zone_that_can_carry_them() {
    let mut fleet = spread(&[("a", 5), ("b", 5), ("c", 5)]);
    assert_eq!(parts(&mut fleet, &ZoneAware::new("b", P2c::default()), &["a", "b", "c"]), [0.0, 1.0, 0.0]);
    // By chance alone a zone is a little smaller: no reason to leave it.
    let mut fleet = spread(&[("a", 21), ("b", 20), ("c", 20)]);
    assert_eq!(parts(&mut fleet, &ZoneAware::new("b", P2c::default()), &["b"]), [1.0]);
}

#[test]
fn many_callers_beside_few_nodes_spill_just_what_is_too_much() {
    // Callers 4 : 1, nodes 1 : 4: the best that keeps all loads equal is a quarter of the calls of `a` in `a`.
    let callers = [("a", 40), ("b", 10)];
    let zones = [("a", 4), ("b", 16)];
    let mut load = [0.0; 2];
    let mut crossing = 0.0;
    for (zone, count) in callers {
        let mut fleet = spread(&zones);
        let policy = ZoneAware::new(zone, P2c::default()).callers(callers);
        let parts = parts(&mut fleet, &policy, &["a", "b"]);
        let calls = f64::from(count) / 50.0;
        (0..2).for_each(|at| load[at] += calls * parts[at]);
        crossing += calls * if zone == "a" { parts[1] } else { parts[0] };
    }
    // Per node, against the mean of 1/20.
    let most = (load[0] / 4.0 * 20.0).max(load[1] / 16.0 * 20.0);
    println!(
        "zones, callers 4:1, nodes 1:4: max/mean {most:.3}, crossing {:.1} % (optimum 60 %)",
        crossing * 100.0
    );
    assert!(most <= 1.1, "{most}");
    assert!(crossing <= 0.66, "{crossing}");
}

#[test]
fn a_zone_that_loses_nodes_hands_over_step_by_step() {
    let mut fleet = spread(&[("a", 10), ("b", 10)]);
    let mut before = 1.0;
    for lost in 0..=10 {
        let stays = parts(&mut fleet, &ZoneAware::new("a", P2c::default()), &["a"])[0];
        assert!(before - stays < 0.2 && stays <= before + 0.03, "{lost} lost: {before} to {stays}");
        before = stays;
        if lost < 10 {
            fleet.nodes[lost].set_ready(false);
        }
    }
    assert_eq!(before, 0.0);
}

#[test]
fn a_node_that_is_ejected_or_new_counts_for_what_it_can_carry() {
    let mut fleet = spread(&[("a", 2), ("b", 2)]);
    fleet.fail(0);
    let stays = parts(&mut fleet, &ZoneAware::new("a", RoundRobin::default()).max_skew(1.0), &["a"])[0];
    // A third of the capacity for half of the calls, until the probe of the ejected one succeeds.
    assert!((0.6..0.95).contains(&stays), "{stays}");
    let mut fleet = spread(&[("a", 1), ("b", 2)]);
    let new = fleet.add(fleet.now());
    fleet.records[new].zone = "a".into();
    fleet.warm();
    let picker = ZoneAware::new("a", RoundRobin::default()).max_skew(1.0).picker(fleet.members());
    let early = fleet.shares(&*picker, 300, 1);
    assert!((130..260).contains(&(early[0] + early[3])), "1.2 of 3.2 for half of the calls: {early:?}");
}

#[test]
fn one_node_alone_in_its_zone_does_not_drown() {
    let mut fleet = spread(&[("a", 1), ("b", 9)]);
    let policy = ZoneAware::new("a", RoundRobin::default()).callers([("a", 50), ("b", 50)]);
    let stays = parts(&mut fleet, &policy, &["a"])[0];
    assert!((0.18..0.24).contains(&stays), "half of all calls for a tenth of the nodes: {stays}");
}

#[test]
fn zones_without_nodes_and_unknown_zones_are_no_trouble() {
    let mut fleet = spread(&[("a", 4), ("b", 4)]);
    for (zone, expected) in [("nowhere", [0.5, 0.5]), ("", [0.5, 0.5])] {
        let parts = parts(&mut fleet, &ZoneAware::new(zone, P2c::default()), &["a", "b"]);
        assert!(
            parts.iter().zip(expected).all(|(part, fair)| (part - fair).abs() < 0.05),
            "{zone}: {parts:?}"
        );
    }
    for skew in [f64::NAN, f64::INFINITY, -1.0] {
        let policy = ZoneAware::new("a", P2c::default()).max_skew(skew).callers([("a", 0), ("b", 0)]);
        assert_eq!(parts(&mut fleet, &policy, &["a"]), [1.0]);
    }
}

#[test]
fn a_retry_leaves_the_zone_rather_than_meet_the_same_node_again() {
    let mut fleet = spread(&[("a", 1), ("b", 2)]);
    let policy = ZoneAware::new("a", P2c::default()).max_skew(1000.0);
    let picker = policy.picker(fleet.members());
    assert_eq!(fleet.call(&*picker, Hint::Any), 0);
    let tried: Vec<NodeKey> = vec![fleet.nodes[0].key().clone()];
    for _ in 0..20 {
        let (index, _ticket) = fleet.ask(&*picker, Ask { avoid: &tried, ..Ask::default() }).unwrap();
        assert_ne!(index, 0);
    }
    fleet.fail(0);
    assert!((0..20).all(|_| fleet.call(&*picker, Hint::Any) != 0), "nor one that is ejected");
}

#[test]
fn parked_nodes_stay_parked_though_their_zone_has_no_other() {
    let mut fleet = spread(&[("a", 2), ("b", 2)]).weights(&[0, 0, 100, 100]);
    assert_eq!(parts(&mut fleet, &ZoneAware::new("a", P2c::default()), &["a", "b"]), [0.0, 1.0]);
    fleet.nodes[2].set_ready(false);
    assert_eq!(parts(&mut fleet, &ZoneAware::new("a", P2c::default()), &["a", "b"]), [0.0, 1.0]);
}

#[test]
fn keys_keep_their_zone_and_their_node() {
    let mut fleet = spread(&[("a", 3), ("b", 9)]);
    let policy = ZoneAware::new("a", RingHash::default());
    let picker = policy.picker(fleet.members());
    let homes: Vec<_> = (0..2_000).map(|key| fleet.call(&*picker, Hint::Hash(key))).collect();
    fleet.wait(1_000);
    assert!((0..2_000).all(|key| fleet.call(&*picker, Hint::Hash(key)) == homes[key as usize]));
    let in_a = homes.iter().filter(|home| **home < 3).count() as f64 / 2_000.0;
    assert!((0.45..0.6).contains(&in_a), "{in_a}");
    assert!((0..12).all(|index| homes.contains(&index)), "all nodes have keys");
}
