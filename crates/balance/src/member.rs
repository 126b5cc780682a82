//! A node with the record and the weight of the moment.

use std::{fmt, sync::Arc};

use meshwork_core::{Instance, Status};

use crate::Node;

/// A node together with the record it is known by in one snapshot. Cloning it is two reference counts.
#[derive(Clone)]
pub struct Member {
    // Beside one another, so that a pick finds the node in one step.
    /// Absent, as the record is, only in what [`take`](Self::take) leaves behind.
    node: Option<Arc<Node>>,
    instance: Option<Arc<Instance>>,
    weight: u16,
    takes_calls: bool,
}

const NOT_TAKEN: &str = "invariant: nobody sees a member that was taken";

impl Member {
    /// With the weight of its record.
    pub fn new(node: Arc<Node>, instance: Arc<Instance>) -> Self {
        let weight = instance.weight;
        Self::with_weight(node, instance, weight)
    }

    /// With another weight than its record says.
    pub fn with_weight(node: Arc<Node>, instance: Arc<Instance>, weight: u16) -> Self {
        let takes_calls = instance.status == Status::Up;
        Self { node: Some(node), instance: Some(instance), weight, takes_calls }
    }

    /// The node: connection and statistics.
    pub fn node(&self) -> &Arc<Node> {
        self.node.as_ref().expect(NOT_TAKEN)
    }

    /// The record.
    pub fn instance(&self) -> &Arc<Instance> {
        self.instance.as_ref().expect(NOT_TAKEN)
    }

    /// The weight, 0 to 65535.
    pub fn weight(&self) -> u16 {
        self.weight
    }

    /// Whether its record is `up`: one that is `unready` or `leaving` gets nothing new.
    pub fn takes_calls(&self) -> bool {
        self.takes_calls
    }

    /// Whether it is the same node, by the same record, of the same weight.
    pub(crate) fn is(&self, other: &Self) -> bool {
        let same = self.has_node_of(other) && address(&self.instance) == address(&other.instance);
        same && self.weight == other.weight
    }

    /// Whether it is the same node.
    pub(crate) fn has_node_of(&self, other: &Self) -> bool {
        address(&self.node) == address(&other.node)
    }

    /// Moves it out of a list that nobody reads.
    pub(crate) fn take(&mut self) -> Self {
        let Self { weight, takes_calls, .. } = *self;
        Self { node: self.node.take(), instance: self.instance.take(), weight, takes_calls }
    }
}

fn address<T>(held: &Option<Arc<T>>) -> Option<*const T> {
    held.as_ref().map(Arc::as_ptr)
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("id", &self.instance().id)
            .field("node", self.node())
            .field("weight", &self.weight)
            .finish_non_exhaustive()
    }
}
