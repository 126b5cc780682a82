//! A discrete-event simulation: open-loop callers, channels with statistics of their own, servers that answer
//! as the test says. Time and chance come from here alone, so a seed replays its run exactly.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use meshwork_balance::{
    Arrival, Member, Node, NodeKey, Now, Outcome, Peers, Pick, Picked, Picker, Policy, Ticket,
};
use meshwork_core::{Endpoint, Host, Instance, InstanceId, Scheme, ServiceName};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SECOND: u64 = 1_000 * MS;

/// splitmix64.
#[derive(Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // Scrambled: the state grows by a constant, so neighbouring states are one stream, some draws apart.
        Self(scrambled(seed ^ 0x6a09_e667_f3bc_c909))
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scrambled(self.0)
    }

    /// Uniform in 0..1, never 0.
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    pub(crate) fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + (self.unit() * (high - low) as f64) as u64
    }

    /// The gap to the next arrival of a Poisson process.
    pub(crate) fn gap(&mut self, per_second: f64) -> u64 {
        (-self.unit().ln() / per_second * SECOND as f64) as u64
    }
}

/// The finisher of splitmix64.
fn scrambled(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn seeds_are_streams_of_their_own() {
    let draws = |seed| {
        let mut rng = Rng::new(seed);
        (0..300).map(move |_| rng.bits()).collect::<Vec<_>>()
    };
    let mut all: Vec<u64> = (0..300).flat_map(draws).collect();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 300 * 300, "a draw of one seed comes again in another");
}

/// What a server does with a call.
#[derive(Clone, Copy)]
pub(crate) enum Reply {
    Ok { after: u64 },
    Fails { after: u64 },
}

/// The set-up of a run.
#[derive(Clone)]
pub(crate) struct Load {
    pub(crate) nodes: usize,
    pub(crate) channels: usize,
    pub(crate) per_second: f64,
    pub(crate) length: u64,
    pub(crate) deadline: u64,
    /// After so long an attempt is given up and retried.
    pub(crate) attempt_timeout: Option<u64>,
    pub(crate) retries: u32,
    /// Missing ones are 100.
    pub(crate) weights: Vec<u16>,
    /// At such a time after the start all channels' connections to a node go or come.
    pub(crate) links: Vec<(u64, usize, bool)>,
}

impl Load {
    pub(crate) fn new(nodes: usize, per_second: f64, seconds: u64) -> Self {
        Self {
            nodes,
            channels: 1,
            per_second,
            length: seconds * SECOND,
            deadline: SECOND,
            attempt_timeout: None,
            retries: 0,
            weights: Vec::new(),
            links: Vec::new(),
        }
    }
}

/// One call, as its caller saw it.
pub(crate) struct Call {
    pub(crate) began: u64,
    pub(crate) took: u64,
    pub(crate) ok: bool,
    /// The node of the last attempt.
    pub(crate) node: usize,
}

/// One attempt, as a node saw it.
pub(crate) struct Attempt {
    pub(crate) began: u64,
    pub(crate) node: usize,
}

/// Everything that happened.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) calls: Vec<Call>,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) unpicked: usize,
    pub(crate) ejected_at_most: u32,
}

impl Record {
    pub(crate) fn failed(&self) -> usize {
        self.calls.iter().filter(|call| !call.ok).count()
    }

    /// How many attempts each node got in `from..to`.
    pub(crate) fn shares(&self, nodes: usize, from: u64, to: u64) -> Vec<usize> {
        let mut shares = vec![0; nodes];
        for attempt in self.attempts.iter().filter(|a| (from..to).contains(&a.began)) {
            shares[attempt.node] += 1;
        }
        shares
    }

    /// The largest distance of a node's share from the fair one, as a part of it.
    pub(crate) fn unevenness(&self, nodes: usize, from: u64, to: u64) -> f64 {
        let shares = self.shares(nodes, from, to);
        let fair = shares.iter().sum::<usize>() as f64 / nodes as f64;
        shares.iter().map(|share| (*share as f64 / fair - 1.0).abs()).fold(0.0, f64::max)
    }

    /// The part of all calls that ended well within `limit`.
    pub(crate) fn within(&self, limit: u64) -> f64 {
        let good = self.calls.iter().filter(|call| call.ok && call.took <= limit).count();
        good as f64 / self.calls.len() as f64
    }

    pub(crate) fn quantile(&self, q: f64) -> u64 {
        let mut took: Vec<u64> = self.calls.iter().map(|call| call.took).collect();
        took.sort_unstable();
        took[((took.len() - 1) as f64 * q) as usize]
    }
}

pub(crate) struct Channel {
    pub(crate) peers: Arc<Peers>,
    pub(crate) nodes: Vec<Arc<Node>>,
    picker: Box<dyn Picker>,
}

pub(crate) struct World {
    pub(crate) channels: Vec<Channel>,
    pub(crate) rng: Rng,
    clock: Arc<AtomicU64>,
}

enum Event {
    Arrive,
    Link { node: usize, ready: bool },
    End { flight: usize, how: End },
}

#[derive(Clone, Copy)]
enum End {
    Answer(Outcome),
    AttemptTimeout,
    Deadline,
}

struct Flight {
    channel: usize,
    call_began: u64,
    attempt_began: u64,
    node: usize,
    retries: u32,
    ticket: Ticket,
}

pub(crate) fn member(node: &Arc<Node>, index: usize, weight: u16) -> Member {
    let service = ServiceName::new("users").expect("a name");
    let id = InstanceId::new(format!("users-{index:05}")).expect("an id");
    let mut instance = Instance::with_id(service, id);
    instance.weight = weight;
    Member::new(Arc::clone(node), Arc::new(instance))
}

pub(crate) fn key(index: usize) -> NodeKey {
    let ip = std::net::Ipv4Addr::from(0x0a00_0000 + index as u32);
    NodeKey::new([Endpoint::new(Scheme::Grpc, Host::Ip(ip.into()), 9000).expect("a port")])
}

impl World {
    /// `load.channels` channels to the same servers, all connected.
    pub(crate) fn new(seed: u64, load: &Load, policy: &dyn Policy) -> Self {
        let clock = Arc::new(AtomicU64::new(SECOND));
        let channel = |_| {
            let read = Arc::clone(&clock);
            let peers = Peers::new(move || Now::from_nanos(read.load(Relaxed)));
            let nodes: Vec<_> = (0..load.nodes)
                .map(|index| {
                    let arrival = Arrival::new(Now::from_nanos(SECOND));
                    let node = Node::new(key(index), Arc::new(index), &peers, arrival);
                    node.set_ready(true);
                    node
                })
                .collect();
            let weight = |index| load.weights.get(index).copied().unwrap_or(100);
            let members: Vec<_> =
                nodes.iter().enumerate().map(|(index, node)| member(node, index, weight(index))).collect();
            Channel { peers, nodes, picker: policy.picker(members.into()) }
        };
        Self { channels: (0..load.channels).map(channel).collect(), rng: Rng::new(seed), clock }
    }

    /// Moves on by so much that the slow start of all nodes but those not in `known` is over.
    pub(crate) fn settle(&mut self, known: &[usize]) {
        let now = self.clock.fetch_add(10 * SECOND, Relaxed) + 10 * SECOND;
        for channel in &self.channels {
            for (index, node) in channel.nodes.iter().enumerate() {
                if !known.contains(&index) {
                    node.reset_statistics(Now::from_nanos(now));
                }
            }
        }
    }

    /// Runs `load`; `reply` says what node `.1` does with a call that begins at `.2` after the start.
    pub(crate) fn run(
        &mut self,
        load: &Load,
        mut reply: impl FnMut(&mut Rng, usize, u64) -> Reply,
    ) -> Record {
        let start = self.clock.load(Relaxed);
        let mut record = Record::default();
        let mut flights: Vec<Option<Flight>> = Vec::new();
        let mut free = Vec::new();
        let mut queue = BinaryHeap::new();
        let mut events: Vec<Option<Event>> = Vec::new();
        let push = |queue: &mut BinaryHeap<Reverse<(u64, usize)>>, events: &mut Vec<_>, at, event| {
            events.push(Some(event));
            queue.push(Reverse((at, events.len() - 1)));
        };
        push(&mut queue, &mut events, start + self.rng.gap(load.per_second), Event::Arrive);
        for (at, node, ready) in load.links.iter().copied() {
            push(&mut queue, &mut events, start + at, Event::Link { node, ready });
        }
        while let Some(Reverse((at, event))) = queue.pop() {
            self.clock.store(at, Relaxed);
            let (channel, call_began, retries, avoid) = match events[event].take().expect("once") {
                Event::Arrive => {
                    let next = at + self.rng.gap(load.per_second);
                    if next < start + load.length {
                        push(&mut queue, &mut events, next, Event::Arrive);
                    }
                    let channel = self.rng.bits() as usize % self.channels.len();
                    (channel, at, load.retries, None)
                }
                Event::Link { node, ready } => {
                    self.channels.iter().for_each(|channel| channel.nodes[node].set_ready(ready));
                    continue;
                }
                Event::End { flight, how } => {
                    let ended = flights[flight].take().expect("one end per flight");
                    free.push(flight);
                    record.attempts.push(Attempt { began: ended.attempt_began - start, node: ended.node });
                    let ok = match how {
                        End::Answer(outcome) => {
                            ended.ticket.finish(Now::from_nanos(at), outcome);
                            outcome == Outcome::Success
                        }
                        End::AttemptTimeout | End::Deadline => {
                            drop(ended.ticket);
                            false
                        }
                    };
                    let peers = &self.channels[ended.channel].peers;
                    record.ejected_at_most = record.ejected_at_most.max(peers.ejected());
                    if ok || ended.retries == 0 || matches!(how, End::Deadline) {
                        record.calls.push(Call {
                            began: ended.call_began - start,
                            took: at - ended.call_began,
                            ok,
                            node: ended.node,
                        });
                        continue;
                    }
                    (ended.channel, ended.call_began, ended.retries - 1, Some(key(ended.node)))
                }
            };
            let rng = &mut self.rng;
            let mut random = || rng.bits();
            let mut pick = Pick::new(Now::from_nanos(at), &mut random).avoid(avoid.as_slice());
            let Picked::Take(member, ticket) = self.channels[channel].picker.pick(&mut pick) else {
                record.unpicked += 1;
                continue;
            };
            let node = *member.node().attachment::<usize>().expect("set above");
            let (mut end, mut how) = match reply(&mut self.rng, node, at - start) {
                Reply::Ok { after } => (at + after, End::Answer(Outcome::Success)),
                Reply::Fails { after } => (at + after, End::Answer(Outcome::Failure)),
            };
            if let Some(timeout) = load.attempt_timeout.filter(|t| retries > 0 && at + t < end) {
                (end, how) = (at + timeout, End::AttemptTimeout);
            }
            if call_began + load.deadline < end {
                (end, how) = (call_began + load.deadline, End::Deadline);
            }
            let flight = Flight { channel, call_began, attempt_began: at, node, retries, ticket };
            let slot = free.pop().unwrap_or_else(|| {
                flights.push(None);
                flights.len() - 1
            });
            flights[slot] = Some(flight);
            push(&mut queue, &mut events, end, Event::End { flight: slot, how });
        }
        record
    }
}
