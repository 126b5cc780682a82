//! Round robin, weighted and not, and the fewest requests.

use meshwork_balance::{Hint, LeastRequest, Outcome, Policy, RoundRobin, WeightedRoundRobin};

use crate::fleet::Fleet;

#[test]
fn round_robin_gives_each_its_turn_and_begins_anywhere() {
    let mut fleet = Fleet::of(7);
    fleet.warm();
    let mut begun = Vec::new();
    for _ in 0..40 {
        let picker = RoundRobin::default().picker(fleet.members());
        let turns: Vec<_> = (0..21).map(|_| fleet.call(&*picker, Hint::Any)).collect();
        assert!(turns.windows(2).all(|pair| pair[1] == (pair[0] + 1) % 7), "{turns:?}");
        begun.push(turns[0]);
    }
    begun.sort_unstable();
    begun.dedup();
    assert!(begun.len() > 4, "snapshots that come often favour nobody: {begun:?}");
}

/// The furthest that any prefix of the turns is from its fair part, in calls.
fn worst_debt(weights: &[u16], turns: &[usize]) -> f64 {
    let all: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
    let mut given = vec![0.0; weights.len()];
    let mut worst = 0.0f64;
    for (turn, index) in turns.iter().enumerate() {
        given[*index] += 1.0;
        for (given, weight) in given.iter().zip(weights) {
            worst = worst.max((given - (turn + 1) as f64 * f64::from(*weight) / all).abs());
        }
    }
    worst
}

#[test]
fn weighted_round_robin_spreads_the_turns_of_each_evenly() {
    for weights in
        [&[5, 1, 1][..], &[100, 100, 100], &[1, 2, 3, 4, 5], &[1, 1000], &[7, 65_535, 300, 300, 1], &[3; 50]]
    {
        let mut fleet = Fleet::of(weights.len()).weights(weights);
        fleet.warm();
        let picker = WeightedRoundRobin::default().picker(fleet.members());
        let turns: Vec<_> = (0..20_000).map(|_| fleet.call(&*picker, Hint::Any)).collect();
        let worst = worst_debt(weights, &turns);
        assert!(worst <= 4.0, "{weights:?}: {worst} calls from fair");
        let longest_run = turns.chunk_by(|a, b| a == b).map(<[usize]>::len).max().unwrap();
        let heaviest = f64::from(*weights.iter().max().unwrap());
        let others = weights.iter().copied().map(f64::from).sum::<f64>() - heaviest;
        assert!(longest_run as f64 <= 2.0 * heaviest / others + 2.0, "{weights:?}: {longest_run} in a row");
    }
}

#[test]
fn weighted_round_robin_is_exact_beside_one_giant() {
    let weights: Vec<u16> = (0..10_000).map(|index| if index == 77 { u16::MAX } else { 1 }).collect();
    let mut fleet = Fleet::of(weights.len()).weights(&weights);
    let picker = WeightedRoundRobin::default().picker(fleet.members());
    let heavy = (0..20_000).filter(|_| fleet.call(&*picker, Hint::Any) == 77).count();
    let fair = 20_000.0 * 65_535.0 / (65_535.0 + 9_999.0);
    assert!((heavy as f64 / fair - 1.0).abs() < 0.01, "{heavy} of {fair}");
}

#[test]
fn a_change_of_weights_counts_from_the_next_snapshot_on() {
    let mut fleet = Fleet::of(3).weights(&[100, 100, 100]);
    fleet.warm();
    let before = WeightedRoundRobin::default().picker(fleet.members());
    assert_eq!(fleet.shares(&*before, 300, 1), [100, 100, 100]);
    fleet = fleet.weights(&[100, 300, 0]);
    let after = WeightedRoundRobin::default().picker(fleet.members());
    let shares = fleet.shares(&*after, 400, 1);
    assert!(shares[2] == 0 && shares[0].abs_diff(100) <= 1, "{shares:?}");
}

#[test]
fn least_request_keeps_away_from_who_has_many() {
    for (choices, at_most) in [(2, 0), (8, 0)] {
        let mut fleet = Fleet::of(3);
        fleet.warm();
        let held: Vec<_> = (0..20).map(|_| fleet.nodes[1].begin(fleet.now()).unwrap()).collect();
        let picker = LeastRequest::default().choices(choices).picker(fleet.members());
        let shares = fleet.shares(&*picker, 300, 1);
        assert!(shares[1] <= at_most, "{shares:?}");
        held.into_iter().for_each(|ticket| ticket.finish(fleet.now(), Outcome::Success));
        assert!(fleet.shares(&*picker, 300, 1).iter().all(|share| *share > 80));
    }
}

#[test]
fn least_request_fills_nodes_by_weight() {
    let mut fleet = Fleet::of(3).weights(&[100, 200, 300]);
    fleet.warm();
    let picker = LeastRequest::default().choices(3).picker(fleet.members());
    let tickets: Vec<_> = (0..600).map(|_| fleet.pick(&*picker, Hint::Any).1).collect();
    let inflight: Vec<_> = fleet.nodes.iter().map(|node| node.inflight()).collect();
    assert!(
        inflight.iter().zip([100, 200, 300]).all(|(has, fair)| has.abs_diff(fair) <= fair / 10),
        "{inflight:?}"
    );
    drop(tickets);
}
