//! Which part of a large fleet one client connects to.
//!
//! With 300 clients and 300 nodes all connected to all, 90 000 connections are kept alive for nothing. Here each
//! client gets some of the nodes. It is asked before nodes are made, by the owner of the view: what is not chosen
//! is not dialled.

use std::{fmt, sync::Arc};

use meshwork_core::{Instance, Status};

use crate::chance::{FNV, fnv, scramble};

/// More count as so many: what is multiplied with their number stays in range.
const CLIENTS_AT_MOST: usize = 1 << 24;

/// One instance that is chosen, and how much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Portion {
    /// Its place among the instances given.
    pub at: usize,
    /// The weight it is to have, for [`Member::with_weight`](crate::Member::with_weight); comparable only with
    /// those of the same answer.
    pub weight: u16,
}

/// A way to choose some of many instances. The same view gives the same answer, in every order.
pub trait Subsetting: Send + Sync + 'static {
    /// The instances to connect to, sorted by place. Only those that are `up` and have a weight are chosen, or,
    /// when none has a weight, those that are `up`.
    fn choose(&self, instances: &[Arc<Instance>]) -> Vec<Portion>;
}

const _: fn(Box<dyn Subsetting>) = |_| {};

/// Clients and nodes on one ring: each client takes the arc that begins at its rank.
///
/// For large fleets whose clients know their rank among themselves. The arcs of all clients cover each point of
/// the ring equally often, and a node that an arc covers in part gets that part of its weight: so every node
/// gets the same load for its weight, exactly, whatever the numbers. When one node leaves and another comes, a
/// client makes about one new connection; when the number of clients changes, about as many.
/// Fewer clients than nodes divided by `size` cover everything all the same, each with more than `size` nodes.
///
/// Twitter's deterministic aperture (Finagle, *Deterministic Aperture*, 2019).
///
/// ```
/// # use std::sync::Arc;
/// # use meshwork_balance::{RingAperture, Subsetting};
/// # use meshwork_core::{Instance, ServiceName};
/// let nodes: Vec<_> =
///     (0..300).map(|_| Ok(Arc::new(Instance::new(ServiceName::new("users")?)))).collect::<Result<_, _>>()?;
/// let chosen = RingAperture::new(20, 7, 300).choose(&nodes);
/// assert_eq!(chosen.len(), 20);
/// # Ok::<(), meshwork_core::NameError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RingAperture {
    size: u64,
    rank: u64,
    clients: u64,
}

impl RingAperture {
    /// About `size` nodes for the client of this `rank`, from 0, of so many `clients`. A size or number of
    /// clients of 0 counts as 1; ranks beyond the number begin anew.
    pub fn new(size: usize, rank: usize, clients: usize) -> Self {
        let clients = clients.clamp(1, CLIENTS_AT_MOST) as u64;
        Self { size: size.max(1) as u64, rank: rank as u64 % clients, clients }
    }

    /// How much of `from..to` the arc covers, of a ring that has `weights` units for each client.
    fn covered(&self, arc: u64, weights: u64, from: u64, to: u64) -> u64 {
        let ring = weights * self.clients;
        let (start, end) = (self.rank * weights, (self.rank + arc) * weights);
        let common = |a: u64, b: u64| b.min(to).saturating_sub(a.max(from));
        // The part beyond the end of the ring goes on at its beginning.
        common(start, end.min(ring)) + common(0, end.saturating_sub(ring))
    }
}

impl Subsetting for RingAperture {
    fn choose(&self, instances: &[Arc<Instance>]) -> Vec<Portion> {
        let eligible = eligible(instances, 0);
        let weights: u64 = eligible.iter().map(|node| node.weight).sum();
        let heaviest = eligible.iter().map(|node| node.weight).max().unwrap_or(1);
        let nodes = (eligible.len() as u64).max(1);
        // In client widths, so that all arcs together cover each point equally often. Rounded, not up: an arc
        // that grows and shrinks with each node that goes and comes would cost a connection each time.
        let size = self.size.min(nodes);
        let arc = ((size * self.clients * 2 + nodes) / (nodes * 2)).clamp(1, self.clients);
        // Parts of a weight must be told apart.
        let finer = (u64::from(u16::MAX) / heaviest).clamp(1, 256);
        let mut from = 0;
        let mut chosen = Vec::new();
        for node in eligible {
            let to = from + node.weight * self.clients;
            let covered = self.covered(arc, weights, from, to);
            from = to;
            if covered > 0 {
                let weight = (covered * finer / self.clients).clamp(1, u64::from(u16::MAX)) as u16;
                chosen.push(Portion { at: node.at, weight });
            }
        }
        chosen.sort_unstable_by_key(|portion| portion.at);
        chosen
    }
}

/// The nodes that score highest with a client's own salt.
///
/// For clients that know nothing of each other. A node that leaves or comes costs a connection only those clients
/// that had it or get it (0.07 per client with 20 of 300). The price is chance: the load of a node is between half
/// and one and a half times the mean there. gRPC A68 (random subsetting).
///
/// ```
/// # use meshwork_balance::{Rendezvous, Subsetting};
/// assert!(Rendezvous::new(20, 0x5eed).choose(&[]).is_empty());
/// ```
#[derive(Clone, Copy)]
pub struct Rendezvous {
    size: usize,
    salt: u64,
}

impl Rendezvous {
    /// `size` nodes, 1 and up, by a `salt` that each client has for itself and keeps.
    pub fn new(size: usize, salt: u64) -> Self {
        Self { size: size.max(1), salt }
    }
}

impl fmt::Debug for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rendezvous").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Subsetting for Rendezvous {
    fn choose(&self, instances: &[Arc<Instance>]) -> Vec<Portion> {
        let mut chosen = eligible(instances, self.salt);
        chosen.truncate(self.size);
        chosen.sort_unstable_by_key(|node| node.at);
        chosen.into_iter().map(|node| Portion { at: node.at, weight: node.weight as u16 }).collect()
    }
}

struct Eligible {
    at: usize,
    weight: u64,
}

/// Those that get calls, in an order that only their ids and the salt decide: neighbours by name are often
/// neighbours in a rack.
fn eligible(instances: &[Arc<Instance>], salt: u64) -> Vec<Eligible> {
    let up = |instance: &&Arc<Instance>| instance.status == Status::Up;
    let weightless = instances.iter().filter(up).all(|instance| instance.weight == 0);
    let mut found: Vec<_> = instances
        .iter()
        .enumerate()
        .filter(|(_, instance)| up(instance) && (weightless || instance.weight > 0))
        .map(|(at, instance)| {
            let score = scramble(scramble(salt) ^ fnv(FNV, instance.id.as_str().as_bytes()));
            (score, &instance.id, Eligible { at, weight: u64::from(instance.weight.max(1)) })
        })
        .collect();
    found.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)));
    found.into_iter().map(|(_, _, node)| node).collect()
}
