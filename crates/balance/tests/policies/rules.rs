//! The rules that hold in every policy.

use meshwork_balance::{Hint, Now, Outcome, Pick, Picked, Resort};
use meshwork_core::Status;

use crate::{
    all::all,
    fleet::{Ask, Fleet},
};

/// Whether a policy spreads calls over all members.
fn spreads(name: &str) -> bool {
    name != "first"
}

#[test]
fn who_leaves_or_is_not_ready_gets_nothing_though_it_is_idle() {
    for (name, policy) in all() {
        let mut fleet = Fleet::of(4).zones(&["a", "a", "b", "b"]);
        fleet.warm();
        fleet.records[0].status = Status::Leaving;
        fleet.records[3].status = Status::Unready;
        let shares = fleet.shares(&*policy.picker(fleet.members()), 200, 1);
        assert_eq!(shares[0] + shares[3], 0, "{name}: {shares:?}");
        fleet.records.iter_mut().for_each(|record| record.status = Status::Leaving);
        let picker = policy.picker(fleet.members());
        let answer = fleet.ask(&*picker, Ask::default()).map(|_| ());
        assert_eq!(answer, Err("Nothing(Empty)".into()), "{name}");
    }
}

#[test]
fn weight_zero_gets_nothing_unless_all_have_it() {
    for (name, policy) in all() {
        let mut fleet = Fleet::of(3).weights(&[0, 100, 100]);
        fleet.warm();
        let shares = fleet.shares(&*policy.picker(fleet.members()), 200, 1);
        assert_eq!(shares[0], 0, "{name}: {shares:?}");
        let id = fleet.records[0].id.clone();
        let picker = policy.picker(fleet.members());
        assert_eq!(fleet.call(&*picker, Hint::Instance(&id)), 0, "{name}: pinned");
        fleet = fleet.weights(&[0, 0, 0]);
        let shares = fleet.shares(&*policy.picker(fleet.members()), 300, 1);
        assert_eq!(shares.iter().sum::<usize>(), 300, "{name}");
        assert!(!spreads(name) || shares.iter().all(|share| *share > 30), "{name}: {shares:?}");
    }
}

#[test]
fn an_ejected_node_gets_one_probe_when_it_is_due_and_comes_back_by_it() {
    for (name, policy) in all() {
        let mut fleet = Fleet::of(4).zones(&["a", "a", "b", "b"]);
        fleet.warm();
        fleet.fail(0);
        let picker = policy.picker(fleet.members());
        let shares = fleet.shares(&*picker, 300, 1);
        assert_eq!(shares[0], 0, "{name}: {shares:?}");
        fleet.wait(1_000);
        let tickets: Vec<_> = (0..300).map(|_| fleet.pick(&*picker, Hint::Any)).collect();
        assert_eq!(fleet.nodes[0].inflight(), 1, "{name}: one probe");
        for (_, ticket) in tickets {
            ticket.finish(fleet.now(), Outcome::Success);
        }
        assert!(!fleet.nodes[0].is_ejected(), "{name}");
        fleet.wait(200);
        assert!(fleet.shares(&*picker, 300, 1)[0] > 30, "{name}");
    }
}

#[test]
fn below_half_healthy_all_that_is_connected_is_used() {
    for (name, policy) in all() {
        let mut fleet = Fleet::of(5).zones(&["a", "a", "b", "b", "b"]);
        fleet.warm();
        (0..3).for_each(|node| fleet.fail(node));
        assert!(fleet.peers.is_panicking() && fleet.peers.ejected() == 1);
        let picker = policy.picker(fleet.members());
        let mut used = [false; 5];
        let mut tickets = Vec::new();
        for _ in 0..300 {
            // Each call that fails leaves the panic as it is.
            let (index, ticket) = fleet.pick(&*picker, Hint::Any);
            used[index] = true;
            tickets.push(ticket);
        }
        let enough = used.iter().filter(|used| **used).count() == 5 || !spreads(name);
        assert!(enough && used[..3].contains(&true), "{name}: {used:?}");
        drop(tickets);
    }
}

#[test]
fn a_new_node_gets_its_share_slowly() {
    for (name, policy) in all() {
        let mut fleet = Fleet::of(0);
        // The first in order is the new one, so that it matters to each policy.
        let new = fleet.add(fleet.now());
        for _ in 0..3 {
            fleet.add(Now::from_nanos(1));
        }
        fleet = fleet.zones(&["a", "a", "a", "a"]);
        fleet.warm();
        let picker = policy.picker(fleet.members());
        let fair = if spreads(name) { 250.0 } else { 1_000.0 };
        let early = fleet.shares(&*picker, 500, 1)[new] as f64 / (fair / 2.0);
        assert!((0.08..0.6).contains(&early), "{name}: {early} of its share in the first half second");
        fleet.wait(3_000);
        let late = fleet.shares(&*picker, 1_000, 1)[new] as f64 / fair;
        assert!((0.85..1.15).contains(&late), "{name}: {late} of its share later");
    }
}

#[test]
fn where_all_are_new_shares_are_as_ever() {
    for (name, policy) in all().into_iter().filter(|(name, _)| spreads(name)) {
        let mut fleet = Fleet::of(0);
        (0..3).for_each(|_| {
            fleet.add(fleet.now());
        });
        fleet.warm();
        let shares = fleet.shares(&*policy.picker(fleet.members()), 1_500, 1);
        // A ring of three is uneven by itself.
        let limit = if name.contains("ring") { 0.35 } else { 0.15 };
        assert!(shares.iter().all(|share| (*share as f64 / 500.0 - 1.0).abs() < limit), "{name}: {shares:?}");
    }
}

#[test]
fn what_was_tried_is_chosen_again_only_when_there_is_nothing_else() {
    for (name, policy) in all() {
        let mut fleet = Fleet::of(3).zones(&["a", "b", "b"]);
        fleet.warm();
        let picker = policy.picker(fleet.members());
        let tried = [fleet.nodes[0].key().clone(), fleet.nodes[2].key().clone()];
        for _ in 0..50 {
            let (index, _) = fleet.ask(&*picker, Ask { avoid: &tried, ..Ask::default() }).unwrap();
            assert_eq!(index, 1, "{name}");
        }
        fleet.nodes[1].set_ready(false);
        let (index, _) = fleet.ask(&*picker, Ask { avoid: &tried, ..Ask::default() }).unwrap();
        assert_ne!(index, 1, "{name}");
        for resort in [Resort::None, Resort::Untried] {
            let reserved = fleet.ask(&*picker, Ask { avoid: &tried, resort, ..Ask::default() });
            assert_eq!(reserved.map(|_| ()), Err("Wait".into()), "{name}: there are only last resorts");
        }
        // Ejected, and its probe out: still better than what was tried.
        fleet.nodes[1].set_ready(true);
        fleet.fail(1);
        for _ in 0..20 {
            let (index, _) = fleet.ask(&*picker, Ask { avoid: &tried, ..Ask::default() }).unwrap();
            assert_eq!(index, 1, "{name}");
        }
        let reserved = fleet.ask(&*picker, Ask { avoid: &tried, resort: Resort::None, ..Ask::default() });
        assert_eq!(reserved.map(|_| ()), Err("Wait".into()), "{name}");
    }
}

#[test]
fn a_pinned_call_goes_nowhere_else() {
    for (name, policy) in all() {
        let mut fleet = Fleet::of(4).zones(&["a", "b", "b", "c"]);
        fleet.warm();
        let picker = policy.picker(fleet.members());
        for node in 0..4 {
            let id = fleet.records[node].id.clone();
            assert_eq!(fleet.call(&*picker, Hint::Instance(&id)), node, "{name}");
            let addr = format!("10.0.0.{}:80", node + 1).parse().unwrap();
            assert_eq!(fleet.call(&*picker, Hint::Addr(addr)), node, "{name}");
        }
        let id = fleet.records[2].id.clone();
        fleet.nodes[2].set_ready(false);
        let answer = fleet.ask(&*picker, Ask { hint: Hint::Instance(&id), ..Ask::default() });
        assert_eq!(answer.map(|_| ()), Err("Wait".into()), "{name}");
        let gone = policy.picker(fleet.without(&[2]));
        let answer = fleet.ask(&*gone, Ask { hint: Hint::Instance(&id), ..Ask::default() });
        assert_eq!(answer.map(|_| ()), Err("Nothing(NoSuchInstance)".into()), "{name}");
    }
}

#[test]
fn never_no_node_while_one_accepts_however_few_there_are() {
    for (name, policy) in all() {
        for count in 1..=3 {
            for unhealthy in 0..=count {
                for unconnected in 0..count {
                    let mut fleet = Fleet::of(count).zones(&["b", "a", "b"]);
                    fleet.warm();
                    (0..unhealthy).for_each(|node| fleet.fail(node));
                    (0..unconnected).for_each(|node| fleet.nodes[node].set_ready(false));
                    assert!(fleet.peers.ejected() <= 1, "{name}: more than one of {count} ejected");
                    let picker = policy.picker(fleet.members());
                    for _ in 0..30 {
                        let picked = fleet.ask(&*picker, Ask::default());
                        let case = format!("{name}: {unhealthy} failing, {unconnected} away of {count}");
                        assert!(picked.is_ok(), "{case}: {picked:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn full_nodes_are_no_candidates_and_when_all_are_full_the_call_waits() {
    for (name, policy) in all() {
        let mut fleet = Fleet::of(3).zones(&["a", "b", "b"]);
        fleet.warm();
        fleet.nodes.iter().for_each(|node| node.set_capacity(2));
        let picker = policy.picker(fleet.members());
        let tickets: Vec<_> = (0..6).map(|_| fleet.pick(&*picker, Hint::Any)).collect();
        assert!(fleet.nodes.iter().all(|node| node.inflight() == 2), "{name}");
        let answer = fleet.ask(&*picker, Ask::default());
        assert_eq!(answer.map(|_| ()), Err("Wait".into()), "{name}");
        drop(tickets);
    }
}

#[test]
fn threads_that_pick_at_once_neither_lose_a_call_nor_fill_a_node_above_its_room() {
    for (name, policy) in all() {
        let fleet = Fleet::of(6).zones(&["a", "a", "b", "b", "b", "c"]);
        fleet.warm();
        fleet.nodes.iter().for_each(|node| node.set_capacity(3));
        let picker = policy.picker(fleet.members());
        let call = |thread: u64| {
            let mut bits = thread;
            let mut random = || {
                bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bits ^ (bits >> 29)
            };
            let mut held = std::collections::VecDeque::new();
            for number in 0..3_000u64 {
                let now = Now::from_nanos(fleet.now().as_nanos() + number * 1_000_000);
                let mut pick = Pick::new(now, &mut random).hint(Hint::Hash(number));
                if let Picked::Take(member, ticket) = picker.pick(&mut pick) {
                    assert!(member.node().inflight() <= 3 + 4, "{name}: others look at most");
                    held.push_back(ticket);
                }
                if held.len() > 5 {
                    let outcome = if number % 3 == thread % 3 { Outcome::Failure } else { Outcome::Success };
                    held.pop_front().expect("five").finish(now, outcome);
                }
                if number % 500 == thread {
                    fleet.nodes[thread as usize].set_ready(number % 1_000 == thread);
                }
            }
        };
        std::thread::scope(|scope| {
            (0..4).for_each(|thread| {
                let call = &call;
                scope.spawn(move || call(thread));
            });
        });
        let inflight: Vec<_> = fleet.nodes.iter().map(|node| node.inflight()).collect();
        assert_eq!(inflight, [0; 6], "{name}");
        let connected = fleet.nodes.iter().filter(|node| node.is_ready()).count();
        let ejected = fleet.nodes.iter().filter(|node| node.is_ejected()).count();
        let counted = (fleet.peers.connected() as usize, fleet.peers.ejected() as usize);
        assert_eq!(counted, (connected, ejected), "{name}");
    }
}
