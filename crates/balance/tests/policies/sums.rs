//! Weights whose sum is more than any counter of 32 bits, and chance at its ends.

use std::sync::Arc;

use meshwork_balance::{Member, Now, Outcome, Pick, Picked};
use meshwork_core::Instance;

use crate::{all::all, fleet::Fleet};

/// 70 000 of the largest weight are more than 2³².
const MEMBERS: usize = 70_000;
const NODES: usize = 1000;

#[test]
fn no_sum_of_weights_is_too_large_for_any_policy() {
    for weights in [[u16::MAX, u16::MAX, u16::MAX], [u16::MAX, 0, 1], [0, 0, 0]] {
        let fleet = Fleet::of(NODES);
        let records: Vec<Arc<Instance>> = (0..NODES)
            .map(|nth| {
                let mut record = fleet.records[nth].clone();
                record.weight = weights[nth % 3];
                record.zone = ["a", "b"][nth % 2].into();
                Arc::new(record)
            })
            .collect();
        let member = |nth: usize| {
            Member::new(Arc::clone(&fleet.nodes[nth % NODES]), Arc::clone(&records[nth % NODES]))
        };
        let members: Arc<[Member]> = (0..MEMBERS).map(member).collect();
        for (name, policy) in all() {
            let picker = policy.picker(Arc::clone(&members));
            for bits in [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, u64::from(u32::MAX), 0x9e37_79b9_7f4a_7c15] {
                let mut random = || bits;
                match picker.pick(&mut Pick::new(fleet.now(), &mut random)) {
                    Picked::Take(member, ticket) => {
                        assert!(member.weight() > 0 || weights == [0, 0, 0], "{name}: weight 0 was picked");
                        // By a clock that stepped, as likely as not.
                        ticket.finish(Now::from_nanos(bits), Outcome::Success);
                    }
                    other => panic!("{name}: {other:?}"),
                }
            }
        }
    }
}
