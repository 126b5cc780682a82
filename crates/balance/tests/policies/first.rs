//! The first in order.

use meshwork_balance::{First, Hint, Policy};

use crate::fleet::Fleet;

fn endpoint(index: usize) -> meshwork_core::Endpoint {
    // Another scheme than the nodes have: the order is of hosts and ports.
    format!("http://10.0.0.{}:80", index + 1).parse().expect("an endpoint")
}

#[test]
fn the_order_is_the_one_given_then_by_weight_then_by_id() {
    let mut fleet = Fleet::of(5).weights(&[100, 100, 300, 100, 100]);
    fleet.warm();
    let picker = First::in_order([endpoint(3), endpoint(1)]).picker(fleet.members());
    for expected in [3, 1, 2, 0, 4] {
        assert_eq!(fleet.shares(&*picker, 20, 1)[expected], 20);
        fleet.nodes[expected].set_ready(false);
    }
    fleet.nodes[3].set_ready(true);
    assert_eq!(fleet.shares(&*picker, 20, 1)[3], 20, "back, it gets its calls again");
}

#[test]
fn a_first_one_that_fails_hands_over_until_its_probe_succeeds() {
    let mut fleet = Fleet::of(2);
    fleet.warm();
    let picker = First::default().picker(fleet.members());
    assert_eq!(fleet.call(&*picker, Hint::Any), 0);
    fleet.fail(0);
    assert_eq!(fleet.shares(&*picker, 20, 1), [0, 20]);
    fleet.wait(1_300);
    assert_eq!(fleet.shares(&*picker, 20, 1), [20, 0]);
}

#[test]
fn what_a_new_first_one_is_spared_goes_to_the_second_alone() {
    let mut fleet = Fleet::of(0);
    fleet.add(fleet.now());
    for _ in 0..4 {
        fleet.add(meshwork_balance::Now::from_nanos(1));
    }
    fleet.warm();
    let picker = First::default().picker(fleet.members());
    let shares = fleet.shares(&*picker, 500, 1);
    assert!((50..250).contains(&shares[0]), "{shares:?}");
    assert_eq!(shares[0] + shares[1], 500);
    fleet.wait(3_000);
    assert_eq!(fleet.shares(&*picker, 50, 1)[0], 50);
}
