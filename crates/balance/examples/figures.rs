//! What a pick and its record cost with each policy, and what a picker costs to make.
//!
//! `cargo run --release -p meshwork-balance --example figures` prints nanoseconds per call, on one thread, with one
//! clock read: the least of several rounds, because noise only adds. All nodes answer alike; a tenth
//! is away. An argument keeps the policies whose names begin with it.

use std::{
    error::Error,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use meshwork_balance::{
    Arrival, First, Hint, LeastRequest, Member, Node, NodeKey, Now, Outcome, P2c, Peers, Pick, Picked,
    Policy, RingHash, RoundRobin, Subset, Subsets, WeightedRoundRobin, ZoneAware,
};
use meshwork_core::{Endpoint, Host, Instance, InstanceId, Scheme, ServiceName};

const SIZES: [usize; 3] = [3, 100, 10_000];
const CALLS: u32 = 50_000;
const ROUNDS: usize = 7;

fn main() -> Result<(), Box<dyn Error>> {
    let canary = Subset::named("canary").deployment("canary").share(0.1);
    let policies: [(&str, Box<dyn Policy>); 10] = [
        ("p2c", Box::new(P2c::default())),
        ("round robin", Box::new(RoundRobin::default())),
        ("weighted round robin", Box::new(WeightedRoundRobin::default())),
        ("least request", Box::new(LeastRequest::default())),
        ("ring hash", Box::new(RingHash::default())),
        ("ring hash, no bound", Box::new(RingHash::default().bound(f64::INFINITY))),
        ("first", Box::new(First::default())),
        ("zones over p2c", Box::new(ZoneAware::new("a", P2c::default()))),
        ("subsets over p2c", Box::new(Subsets::of(P2c::default()).with(canary.clone()))),
        ("subsets over zones", Box::new(Subsets::of(ZoneAware::new("a", P2c::default())).with(canary))),
    ];
    println!("{:24} {:>24}   {:>30}", "", "pick + record, ns", "making a picker, us");
    println!("{:24} {:>8}{:>8}{:>8}   {:>10}{:>10}{:>10}", "N", 3, 100, 10_000, 3, 100, 10_000);
    let only = std::env::args().nth(1).unwrap_or_default();
    for (name, policy) in policies.iter().filter(|(name, _)| name.starts_with(&only)) {
        let (mut calls, mut builds) = (String::new(), String::new());
        for size in SIZES {
            let members = members(size)?;
            let (call, build) = measure(&**policy, &members);
            calls += &format!("{:>8.0}", call);
            builds += &format!("{:>10.1}", build);
        }
        println!("{name:24} {calls}   {builds}");
    }
    Ok(())
}

/// Nanoseconds of a pick with its record, and microseconds of making the picker.
fn measure(policy: &dyn Policy, members: &Arc<[Member]>) -> (f64, f64) {
    let mut seed = 1u64;
    let mut random = || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let bits = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits ^ (bits >> 31)
    };
    let (mut call, mut build) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let picker = policy.picker(Arc::clone(members));
        build = build.min(begun.elapsed().as_secs_f64() * 1e6);
        let begun = Instant::now();
        for number in 0..CALLS {
            let now = elapsed(begun);
            let hint = Hint::Hash(u64::from(number));
            match picker.pick(&mut Pick::new(now, &mut random).hint(hint)) {
                Picked::Take(member, ticket) => {
                    black_box(member.weight());
                    ticket.finish(now.after(Duration::from_millis(10)), Outcome::Success);
                }
                Picked::Wait | Picked::Nothing(_) => unreachable!("most are connected"),
            }
        }
        call = call.min(begun.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
    }
    (call, build)
}

fn elapsed(begun: Instant) -> Now {
    Now::from_nanos(HOUR.as_nanos() as u64).after(begun.elapsed())
}

const HOUR: Duration = Duration::from_secs(3600);

fn members(count: usize) -> Result<Arc<[Member]>, Box<dyn Error>> {
    let begun = Instant::now();
    let peers = Peers::new(move || elapsed(begun));
    let service = ServiceName::new("users")?;
    let member = |index: usize| {
        let mut instance = Instance::with_id(service.clone(), InstanceId::new(format!("users-{index:05}"))?);
        instance.weight = [100, 100, 200][index % 3];
        instance.zone = ["a", "b", "c"][index % 3].into();
        instance.deployment = if index % 10 == 9 { "canary" } else { "stable" }.into();
        let ip = std::net::Ipv4Addr::from(0x0a00_0001 + index as u32);
        let key = NodeKey::new([Endpoint::new(Scheme::Grpc, Host::Ip(ip.into()), 9000)?]);
        let node = Node::new(key, Arc::new(()), &peers, Arrival::new(Now::from_nanos(1)));
        node.set_ready(index % 10 != 5);
        for _ in 0..2 {
            if let Some(ticket) = node.begin(Now::from_nanos(1)) {
                ticket.finish(Now::from_nanos(10_000_000), Outcome::Success);
            }
        }
        Ok(Member::new(node, Arc::new(instance)))
    };
    (0..count).map(member).collect()
}
