//! Consistent hashing with bounded loads.

use meshwork_balance::{Hint, Outcome, Policy, RingHash};

use crate::fleet::Fleet;

const KEYS: u64 = 20_000;

/// Where each key goes, one call at a time, without the nodes that are gone.
fn homes(fleet: &mut Fleet, gone: &[usize]) -> Vec<usize> {
    let picker = RingHash::default().picker(fleet.without(gone));
    (0..KEYS).map(|key| fleet.call(&*picker, Hint::Hash(key))).collect()
}

#[test]
fn who_leaves_takes_only_its_own_keys_along() {
    for count in [2, 3, 20, 300] {
        let mut fleet = Fleet::of(count);
        fleet.warm();
        let (before, gone) = (homes(&mut fleet, &[]), count / 2);
        let after = homes(&mut fleet, &[gone]);
        for (key, (before, after)) in before.iter().zip(&after).enumerate() {
            assert!(*after != gone && (before == after || *before == gone), "key {key}: {before} to {after}");
        }
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert!(moved > 0 && moved as f64 <= 2.0 * KEYS as f64 / count as f64, "{count}: {moved}");
        assert_eq!(homes(&mut fleet, &[]), before, "back, it has its keys again");
    }
}

#[test]
fn a_node_without_a_connection_is_stood_in_for_the_same_way() {
    let mut fleet = Fleet::of(20);
    fleet.warm();
    let before = homes(&mut fleet, &[]);
    fleet.nodes[4].set_ready(false);
    let away = homes(&mut fleet, &[]);
    assert_eq!(away, homes(&mut fleet, &[4]), "as if it were not there");
    fleet.nodes[4].set_ready(true);
    assert_eq!(homes(&mut fleet, &[]), before);
}

#[test]
fn a_weight_that_changes_moves_only_keys_of_its_own() {
    let mut fleet = Fleet::of(20);
    fleet.warm();
    let before = homes(&mut fleet, &[]);
    fleet.records[7].weight = 150;
    let after = homes(&mut fleet, &[]);
    assert!(before.iter().zip(&after).all(|(before, after)| before == after || *after == 7));
    let share = |homes: &[usize]| homes.iter().filter(|home| **home == 7).count() as f64;
    let growth = share(&after) / share(&before);
    assert!((1.25..1.65).contains(&growth), "{growth}");
}

#[test]
fn keys_are_spread_by_weight() {
    for count in [3, 30, 200] {
        let weights: Vec<u16> = (0..count).map(|index| [50, 100, 200][index % 3]).collect();
        let mut fleet = Fleet::of(count).weights(&weights);
        fleet.warm();
        let homes = homes(&mut fleet, &[]);
        for third in 0..3 {
            let share = homes.iter().filter(|home| **home % 3 == third).count() as f64 / KEYS as f64;
            let all: f64 = weights.iter().copied().map(f64::from).sum();
            let of_third = weights.iter().skip(third).step_by(3).copied().map(f64::from).sum::<f64>();
            assert!((share / (of_third / all) - 1.0).abs() < 0.25, "{count}: {third} has {share}");
        }
    }
}

#[test]
fn small_and_huge_weights_make_a_ring_too() {
    for weights in [[1, 2, 3], [u16::MAX, u16::MAX, 1], [0, 0, 0]] {
        let mut fleet = Fleet::of(3).weights(&weights);
        fleet.warm();
        let homes = homes(&mut fleet, &[]);
        let all: f64 = weights.iter().map(|weight| f64::from((*weight).max(1))).sum();
        for (index, weight) in weights.iter().enumerate() {
            let share = homes.iter().filter(|home| **home == index).count() as f64 / KEYS as f64;
            let fair = f64::from((*weight).max(1)) / all;
            assert!((share - fair).abs() < 0.12, "{weights:?}: {index} has {share} for {fair}");
        }
    }
}

#[test]
fn nobody_has_more_than_the_bound_allows_though_all_ask_for_one_key() {
    for (count, factor) in [(3, 1.25), (20, 1.25), (20, 2.0), (300, 1.25)] {
        let mut fleet = Fleet::of(count);
        fleet.warm();
        let picker = RingHash::default().bound(factor).picker(fleet.members());
        let mut tickets = Vec::new();
        for call in 0..count * 40 {
            let hint = if call % 2 == 0 { Hint::Hash(7) } else { Hint::Hash(call as u64) };
            tickets.push(fleet.pick(&*picker, hint).1);
            fleet.wait(1);
            let mean = tickets.len() as f64 / count as f64;
            let most = fleet.nodes.iter().map(|node| node.inflight()).max().unwrap();
            // With more than 64 members the mean is that of a sample.
            let sampled = if count > 64 { 1.3 } else { 1.0 };
            assert!(
                f64::from(most) <= (factor * mean * sampled).ceil().max(4.0),
                "{count}: {most} at {mean}"
            );
        }
        let home = fleet.nodes.iter().map(|node| node.inflight()).max().unwrap();
        assert!(f64::from(home) >= 40.0, "the key's home is filled first: {home}");
    }
}

#[test]
fn without_a_bound_a_key_stays_where_it_is() {
    let mut fleet = Fleet::of(10);
    fleet.warm();
    let picker = RingHash::default().bound(f64::INFINITY).picker(fleet.members());
    let tickets: Vec<_> = (0..500).map(|_| fleet.pick(&*picker, Hint::Hash(7)).1).collect();
    let loaded = fleet.nodes.iter().filter(|node| node.inflight() > 0).count();
    assert_eq!(loaded, 1);
    tickets.into_iter().for_each(|ticket| ticket.finish(fleet.now(), Outcome::Success));
}

#[test]
fn keys_move_to_a_new_node_one_by_one_and_stay() {
    let mut fleet = Fleet::of(9);
    fleet.add(fleet.now());
    fleet.warm();
    let picker = RingHash::default().picker(fleet.members());
    let mut moved: Vec<usize> = Vec::new();
    let mut has = vec![false; 4_000];
    for _ in 0..14 {
        for key in 0..4_000u64 {
            let on_it = fleet.call(&*picker, Hint::Hash(key)) == 9;
            assert!(on_it || !has[key as usize], "key {key} went back");
            has[key as usize] = on_it;
        }
        moved.push(has.iter().filter(|has| **has).count());
        fleet.wait(250);
    }
    let last = *moved.last().unwrap();
    assert!(moved[0] < last / 3 && moved[0] > 0 && last > 250, "{moved:?}");
}
