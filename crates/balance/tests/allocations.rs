//! A pick, an answer and a verdict allocate nothing, whatever the policy and the state of the nodes.

use std::{
    hint::black_box,
    sync::{Arc, atomic::AtomicU64, atomic::Ordering::Relaxed},
};

use meshwork_balance::{Arrival, Hint, Member, Node, NodeKey, Now, Outcome, Peers, Pick, Picked, SubsetId};
use meshwork_core::{Instance, InstanceId, ServiceName};

#[path = "policies/all.rs"]
mod all;

fn members(count: usize, clock: &Arc<AtomicU64>) -> Arc<[Member]> {
    let clock = Arc::clone(clock);
    let peers = Peers::new(move || Now::from_nanos(clock.load(Relaxed)));
    let service = ServiceName::new("users").expect("a name");
    (0..count)
        .map(|index| {
            let id = InstanceId::new(format!("users-{index:05}")).expect("an id");
            let mut instance = Instance::with_id(service.clone(), id);
            instance.weight = 100 + (index % 3) as u16;
            instance.zone = ["a", "b"][index % 2].into();
            instance.deployment = if index % 7 == 6 { "canary" } else { "" }.into();
            let key = NodeKey::new([format!("grpc://10.0.{}.{}:80", index / 250, index % 250 + 1)
                .parse()
                .expect("an endpoint")]);
            let node = Node::new(key, Arc::new(index), &peers, Arrival::new(Now::from_nanos(1)));
            node.set_ready(index % 5 != 0 || count < 5);
            Member::new(node, Arc::new(instance))
        })
        .collect()
}

#[test]
fn a_call_allocates_nothing_in_the_picker() {
    for (name, policy) in all::all() {
        for count in [1, 3, 100, 2_000] {
            let clock = Arc::new(AtomicU64::new(1));
            let members = members(count, &clock);
            let picker = policy.picker(Arc::clone(&members));
            let avoid = [members[count - 1].node().key().clone()];
            let pinned = members[count - 1].instance().id.clone();
            let mut seed = 1u64;
            let mut random = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                seed ^ (seed >> 29)
            };
            let counted = allocation_counter::measure(|| {
                for call in 0..5_000u64 {
                    clock.fetch_add(1_000_000, Relaxed);
                    let now = Now::from_nanos(clock.load(Relaxed));
                    let mut pick = Pick::new(now, &mut random).avoid(&avoid);
                    match call % 7 {
                        0 => pick = pick.hint(Hint::Instance(&pinned)),
                        1..=3 => pick = pick.hint(Hint::Hash(call)).subset(Some(SubsetId::of("canary"))),
                        _ => {}
                    }
                    match picker.pick(&mut pick) {
                        Picked::Take(member, mut ticket) => {
                            black_box(member.node().attachment::<usize>());
                            ticket.answered(Now::from_nanos(clock.load(Relaxed)));
                            let fails = call % 3 == 0 || member.node().key() == &avoid[0];
                            let outcome = if fails { Outcome::Failure } else { Outcome::Success };
                            if call % 11 != 0 {
                                ticket.finish(Now::from_nanos(clock.load(Relaxed)), outcome);
                            }
                        }
                        other => panic!("{other:?}"),
                    }
                }
            });
            assert_eq!(counted.count_total, 0, "{name}, {count} nodes");
        }
    }
}
