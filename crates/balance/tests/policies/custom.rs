//! A policy of a user's own, with nothing but the public surface.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use meshwork_balance::{Hint, Member, Outcome, Pick, Picked, Picker, Policy, Pool};

use crate::fleet::Fleet;

/// Odd calls to the first half, even calls to the second.
struct Alternating;

struct Halves {
    pool: Pool,
    calls: AtomicUsize,
}

impl Policy for Alternating {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        Box::new(Halves { pool: Pool::new(members), calls: AtomicUsize::new(0) })
    }
}

impl Picker for Halves {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        let half = self.pool.len() / 2;
        let call = self.calls.fetch_add(1, Relaxed);
        let from = if call.is_multiple_of(2) { 0 } else { half };
        self.pool.take(pick, (0..half).map(|step| from + (call / 2 + step) % half))
    }
}

/// Without the pool: any member that begins the call.
struct Anyone;

struct Whoever(Arc<[Member]>);

impl Policy for Anyone {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        Box::new(Whoever(members))
    }
}

impl Picker for Whoever {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        let begun = |member: &'a Member| Some((member, member.node().begin(pick.now)?));
        match self.0.iter().filter(|member| member.takes_calls()).find_map(begun) {
            Some((member, ticket)) => Picked::Take(member, ticket),
            None => Picked::Wait,
        }
    }
}

#[test]
fn a_policy_over_the_pool_says_only_whom_it_would_rather_have() {
    let mut fleet = Fleet::of(4);
    fleet.warm();
    let picker = Alternating.picker(fleet.members());
    let order: Vec<_> = (0..8).map(|_| fleet.call(&*picker, Hint::Any)).collect();
    assert_eq!(order, [0, 2, 1, 3, 0, 2, 1, 3]);
    fleet.fail(2);
    assert!(fleet.nodes[2].is_ejected());
    assert!((0..40).all(|_| fleet.call(&*picker, Hint::Any) != 2), "ejected");
    fleet.nodes[3].set_ready(false);
    assert!((0..40).all(|_| fleet.call(&*picker, Hint::Any) < 2), "the half that it wants is away");
}

#[test]
fn a_policy_may_do_without_the_pool() {
    let mut fleet = Fleet::of(3);
    let picker = Anyone.picker(fleet.members());
    let (first, ticket) = fleet.pick(&*picker, Hint::Any);
    assert_eq!(first, 0);
    assert_eq!(fleet.call(&*picker, Hint::Any), 1, "the first one is being tried");
    ticket.finish(fleet.now(), Outcome::Success);
    fleet.nodes[0].set_ready(false);
    assert_eq!(fleet.call(&*picker, Hint::Any), 1);
}
