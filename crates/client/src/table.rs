//! What people and tables read of a channel: its nodes with their state and figures, without a lock that any
//! call takes.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use meshwork_balance::{Member, Subset};
use meshwork_core::{Instance, InstanceId, Staleness};
use meshwork_resilience::hedge::HedgeStats;

use crate::{
    Attempt, ConnectionState, Funnel, LimitView,
    flight::link_of,
    funnel::Asked,
    shared::{Kind, Shared},
};

/// One node of a channel at a moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NodeView {
    /// The record.
    pub instance: Arc<Instance>,
    /// Who answers there, where the connection was confirmed.
    pub confirmed: Option<InstanceId>,
    /// Who the peer proved to be (TLS): a SPIFFE id, else a DNS name.
    pub peer: Option<Arc<str>>,
    /// `host:port`.
    pub address: Arc<str>,
    /// Where its connection stands.
    pub state: ConnectionState,
    /// HTTP/2 connections open now.
    pub connections: usize,
    /// HTTP/2 connections opened ever.
    pub opened: u64,
    /// HTTP/2 streams open now on all of them.
    pub streams: usize,
    /// Calls in flight.
    pub inflight: u32,
    /// The mean latency with its penalties, once it has answered.
    pub latency: Option<Duration>,
    /// Successful calls of the last 10 s.
    pub successes: u32,
    /// Failed calls of the last 10 s.
    pub failures: u32,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// For how long it is still ejected; `None` when it is not.
    pub ejected_for: Option<Duration>,
    /// The weight it is chosen by: that of its record, or the part of it that the aperture gives to this client.
    pub weight: u16,
    /// How often it was ejected.
    pub ejections: u32,
    /// How often it was connected after it was not.
    pub connects: u32,
    /// How often a dial failed.
    pub failed_dials: u64,
    /// The last failed dial: when nothing is connected, the reason.
    pub last_failure: Option<Attempt>,
}

/// One subset of a channel's service at a moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SubsetView {
    /// Its name.
    pub name: Box<str>,
    /// The part of the calls of no lane that goes there, 0 to 1.
    pub share: f64,
    /// Why gRPC calls find an endpoint there or none; `None` before the first one.
    pub grpc: Option<Funnel>,
    /// The same of plain HTTP calls.
    pub http: Option<Funnel>,
}

/// A channel's view of its service at a moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ClusterView {
    /// How sure the registry is of the set.
    pub staleness: Staleness,
    /// Grows with every change that the registry published.
    pub generation: u64,
    /// Why gRPC calls find an endpoint or none; `None` before the first one.
    pub grpc: Option<Funnel>,
    /// The same of plain HTTP calls.
    pub http: Option<Funnel>,
    /// The subsets, in the order in which calls are offered to their shares.
    pub subsets: Vec<SubsetView>,
    /// The limits of calls: the client's, then those of methods by name. Empty where nothing is limited.
    pub limits: Vec<LimitView>,
    /// What became of hedging; `None` where it is off.
    pub hedges: Option<HedgeStats>,
    /// Calls that wait for a connection or a free stream.
    pub waiting: usize,
    /// The nodes, by instance id; gRPC and plain HTTP nodes of one instance are separate when they have
    /// separate endpoints. Empty before the first call: a channel is lazy.
    pub nodes: Vec<NodeView>,
}

/// Reads the view.
pub(crate) fn view(shared: &Shared) -> ClusterView {
    let (snapshot, now) = (shared.watch.latest(), shared.clock.now());
    let mut nodes: Vec<NodeView> = Vec::new();
    let mut seen = HashSet::new();
    for kind in Kind::ALL {
        for member in shared.group(kind).store.load().members.iter() {
            let node = member.node();
            // A node that serves both kinds is listed once.
            if !seen.insert(Arc::as_ptr(node).addr()) {
                continue;
            }
            let (link, stats) = (link_of(node), node.stats(now));
            nodes.push(NodeView {
                instance: Arc::clone(member.instance()),
                confirmed: link.identity(),
                peer: link.peer(),
                address: Arc::clone(link.target().address()),
                state: link.state(),
                connections: link.lines().count(),
                opened: link.opened(),
                streams: link.lines().open_streams(),
                inflight: stats.inflight,
                weight: member.weight(),
                latency: stats.latency,
                successes: stats.successes,
                failures: stats.failures,
                consecutive_failures: stats.consecutive_failures,
                ejected_for: stats.ejected_for,
                ejections: stats.ejections,
                connects: stats.connects,
                failed_dials: link.failures(),
                last_failure: link.last_failure(),
            });
        }
    }
    nodes.sort_by(|a, b| a.instance.id.cmp(&b.instance.id));
    let rules = shared.rules.load();
    let funnel = |kind: Kind, asked: &dyn Fn(&Member) -> Asked| {
        shared.is_wanted(kind).then(|| Funnel::of(shared, &shared.group(kind).store.load(), asked))
    };
    let subset = |subset: &Subset| {
        let asked = |member: &Member| match subset.has(member.instance()) {
            true => Asked::For,
            false => Asked::OtherSubset,
        };
        let (grpc, http) = (funnel(Kind::Grpc, &asked), funnel(Kind::Http, &asked));
        SubsetView { name: subset.name().into(), share: subset.part(), grpc, http }
    };
    ClusterView {
        staleness: snapshot.staleness().clone(),
        generation: snapshot.generation(),
        grpc: funnel(Kind::Grpc, &|_| Asked::For),
        http: funnel(Kind::Http, &|_| Asked::For),
        subsets: rules.subsets().iter().map(subset).collect(),
        limits: rules.limiters().map(|(method, limiter)| limiter.view(method)).collect(),
        hedges: rules.hedges().map(|hedges| hedges.stats()),
        waiting: shared.waiting.load(Ordering::Relaxed),
        nodes,
    }
}
