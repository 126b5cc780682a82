//! What people and tables read of a channel: its nodes with their state and figures, without a lock that any
//! call takes.

use std::{collections::HashSet, sync::Arc, time::Duration};

use meshwork_core::{Instance, InstanceId, Staleness};

use crate::{
    Attempt, ConnectionState, Funnel,
    flight::link_of,
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
    /// How often it was ejected.
    pub ejections: u32,
    /// How often it was connected after it was not.
    pub connects: u32,
    /// How often a dial failed.
    pub failed_dials: u64,
    /// The last failed dial: when nothing is connected, the reason.
    pub last_failure: Option<Attempt>,
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
    let funnel =
        |kind: Kind| shared.is_wanted(kind).then(|| Funnel::of(&shared.group(kind).store.load(), |_| true));
    ClusterView {
        staleness: snapshot.staleness().clone(),
        generation: snapshot.generation(),
        grpc: funnel(Kind::Grpc),
        http: funnel(Kind::Http),
        nodes,
    }
}
