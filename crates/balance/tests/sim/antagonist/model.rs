//! Nodes on machines that others use too, under a load that grows: for the test beside this file, and for `bench P9`.
//!
//! The set-up of *Load is not what you should balance: Introducing Prequal* (B. Wydrowski et al., NSDI 2024),
//! smaller: a node is entitled to an allocation and may use what its neighbours on the machine leave. The load
//! grows by 10/9 a step, from 0.75 to 1.74 times the sum of the allocations.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use meshwork_balance::{
    Arrival, Member, Node, Now, Outcome, P2c, Peers, Pick, Picked, Picker, Policy, Pool, RoundRobin, Ticket,
    WeightedRoundRobin,
};

use crate::world::{Rng, SECOND, key, member};

const NODES: usize = 10;
/// Cores that a node is entitled to; a call runs on one at most.
const CORES: f64 = 2.0;
/// Nodes whose neighbours leave nothing.
const CONTENDED: usize = 3;
const WORK: f64 = 40e6;
const DEADLINE: u64 = SECOND;
const STEPS: usize = 9;
const STEP: u64 = 40 * SECOND;

/// The load of a step in allocations.
fn level(step: usize) -> f64 {
    0.75 * (10.0f64 / 9.0).powi(step as i32)
}

/// What tower's p2c over peak-EWMA does, as a policy of a user's own: the cheaper of two by a latency that jumps
/// up at once and comes down over 10 s, times the calls in flight.
struct PeakEwma(Arc<[Cost]>);

/// The latency of a node as tower's peak-EWMA sees it.
#[derive(Default)]
pub(crate) struct Cost {
    nanos: AtomicU64,
    at: AtomicU64,
}

impl Cost {
    fn read(&self, now: u64) -> f64 {
        let age = now.saturating_sub(self.at.load(Relaxed)) as f64;
        f64::from_bits(self.nanos.load(Relaxed)) * (-age / 10e9).exp()
    }

    fn note(&self, now: u64, took: u64) {
        let keep = (-(now.saturating_sub(self.at.load(Relaxed)) as f64) / 10e9).exp();
        let (known, took) = (f64::from_bits(self.nanos.load(Relaxed)), took as f64);
        let nanos = if took > known { took } else { known * keep + took * (1.0 - keep) };
        self.nanos.store(nanos.to_bits(), Relaxed);
        self.at.store(now, Relaxed);
    }
}

struct PeakPicker(Pool, Arc<[Cost]>);

impl Policy for PeakEwma {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        Box::new(PeakPicker(Pool::new(members), Arc::clone(&self.0)))
    }
}

impl Picker for PeakPicker {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        let (first, second) = ((pick.random)() as usize % NODES, (pick.random)() as usize % (NODES - 1));
        let second = if second >= first { second + 1 } else { second };
        let now = pick.now.as_nanos();
        let cost = |at: usize| self.1[at].read(now) * f64::from(self.0.get(at).node().inflight() + 1);
        let order = if cost(second) < cost(first) { [second, first] } else { [first, second] };
        self.0.take(pick, order)
    }
}

/// As in the paper: normal, the deviation as large as the mean, cut at 0.
fn work(rng: &mut Rng) -> f64 {
    loop {
        let normal = (-2.0 * rng.unit().ln()).sqrt() * (std::f64::consts::TAU * rng.unit()).cos();
        if normal > -1.0 {
            // The cut raises the mean to 1.288 of what it was.
            return (1.0 + normal) * WORK / 1.2876;
        }
    }
}

/// A node: calls share its cores, each at most one.
struct Server {
    cores: f64,
    jobs: Vec<Job>,
    /// When the work of the jobs was last brought up to date.
    at: u64,
}

struct Job {
    left: f64,
    began: u64,
    channel: usize,
    ticket: Ticket,
}

impl Server {
    fn speed(&self) -> f64 {
        (self.cores / self.jobs.len().max(1) as f64).min(1.0)
    }

    fn advance(&mut self, now: u64) {
        let done = (now - self.at) as f64 * self.speed();
        self.jobs.iter_mut().for_each(|job| job.left -= done);
        self.at = now;
    }

    /// When the next job ends or passes its deadline.
    fn next(&self) -> u64 {
        let speed = self.speed();
        let ends =
            |job: &Job| (self.at + (job.left.max(0.0) / speed).ceil() as u64).min(job.began + DEADLINE);
        self.jobs.iter().map(ends).min().unwrap_or(u64::MAX)
    }
}

struct Client {
    picker: Box<dyn Picker>,
    costs: Arc<[Cost]>,
    _nodes: Vec<Arc<Node>>,
}

/// Makes a policy, given what it may keep of each node.
pub(crate) type Make = fn(Arc<[Cost]>) -> Box<dyn Policy>;

/// Ours first.
pub(crate) const POLICIES: [(&str, Make); 4] = [
    ("p2c", |_| Box::new(P2c::default())),
    ("round robin", |_| Box::new(RoundRobin::default())),
    ("weighted round robin", |_| Box::new(WeightedRoundRobin::default())),
    ("like tower's p2c + peak-EWMA", |costs| Box::new(PeakEwma(costs))),
];

/// The load at which the first call misses its deadline; beyond the last step when none does.
pub(crate) fn ramp(seed: u64, clients: usize, policy: Make) -> f64 {
    let mut rng = Rng::new(seed);
    let clock = Arc::new(AtomicU64::new(0));
    let clients: Vec<Client> = (0..clients).map(|_| client(&clock, policy)).collect();
    let mut servers: Vec<Server> =
        (0..NODES).map(|_| Server { cores: CORES, jobs: Vec::new(), at: 0 }).collect();
    let mut arrival = 0;
    // The neighbours of the others change their mind every few seconds.
    let mut changes: Vec<u64> = vec![0; NODES];
    loop {
        let (server, end) =
            (0..NODES).map(|at| (at, servers[at].next())).min_by_key(|(_, end)| *end).expect("nodes");
        let (changing, change) =
            (CONTENDED..NODES).map(|at| (at, changes[at])).min_by_key(|(_, at)| *at).expect("nodes");
        let now = end.min(arrival).min(change);
        if now >= STEPS as u64 * STEP {
            return level(STEPS);
        }
        clock.store(now, Relaxed);
        if now == change {
            servers[changing].advance(now);
            servers[changing].cores = CORES * (1.2 + 1.3 * rng.unit());
            changes[changing] = now + rng.between(2 * SECOND, 10 * SECOND);
        } else if now == end {
            let server_at = server;
            let server = &mut servers[server_at];
            server.advance(now);
            let over = |job: &Job| job.left < 1.0 || job.began + DEADLINE <= now;
            while let Some(at) = server.jobs.iter().position(over) {
                let job = server.jobs.swap_remove(at);
                if job.left >= 1.0 {
                    return level((job.began / STEP) as usize);
                }
                clients[job.channel].costs[server_at].note(now, now - job.began);
                job.ticket.finish(Now::from_nanos(now), Outcome::Success);
            }
        } else {
            let step = (now / STEP) as usize;
            arrival = now + rng.gap(level(step) * NODES as f64 * CORES / WORK * 1e9);
            let channel = rng.bits() as usize % clients.len();
            let mut random = || rng.bits();
            let Picked::Take(member, ticket) =
                clients[channel].picker.pick(&mut Pick::new(Now::from_nanos(now), &mut random))
            else {
                panic!("no node");
            };
            let server = &mut servers[*member.node().attachment::<usize>().expect("the index")];
            server.advance(now);
            server.jobs.push(Job { left: work(&mut rng), began: now, channel, ticket });
        }
    }
}

fn client(clock: &Arc<AtomicU64>, policy: Make) -> Client {
    let read = Arc::clone(clock);
    let peers = Peers::new(move || Now::from_nanos(read.load(Relaxed)));
    let nodes: Vec<_> = (0..NODES)
        .map(|index| {
            let node = Node::new(key(index), Arc::new(index), &peers, Arrival::new(Now::from_nanos(0)));
            node.set_ready(true);
            node
        })
        .collect();
    let costs: Arc<[Cost]> = (0..NODES).map(|_| Cost::default()).collect();
    let members: Vec<_> = nodes.iter().enumerate().map(|(index, node)| member(node, index, 100)).collect();
    Client { picker: policy(Arc::clone(&costs)).picker(members.into()), costs, _nodes: nodes }
}
