//! A node with the record and the weight of the moment.

use std::{fmt, sync::Arc};

use meshwork_core::{Instance, Status};

use crate::Node;

/// A node together with the record it is known by in one snapshot. Cloning it is one reference count.
#[derive(Clone)]
pub struct Member(Arc<Parts>);

struct Parts {
    node: Arc<Node>,
    instance: Arc<Instance>,
    weight: u16,
    takes_calls: bool,
}

impl Member {
    /// With the weight of its record.
    pub fn new(node: Arc<Node>, instance: Arc<Instance>) -> Self {
        let weight = instance.weight;
        Self::with_weight(node, instance, weight)
    }

    /// With another weight than its record says.
    pub fn with_weight(node: Arc<Node>, instance: Arc<Instance>, weight: u16) -> Self {
        let takes_calls = instance.status == Status::Up;
        Self(Arc::new(Parts { node, instance, weight, takes_calls }))
    }

    /// The node: connection and statistics.
    pub fn node(&self) -> &Arc<Node> {
        &self.0.node
    }

    /// The record.
    pub fn instance(&self) -> &Arc<Instance> {
        &self.0.instance
    }

    /// The weight, 0 to 65535.
    pub fn weight(&self) -> u16 {
        self.0.weight
    }

    /// Whether its record is `up`: one that is `unready` or `leaving` gets nothing new.
    pub fn takes_calls(&self) -> bool {
        self.0.takes_calls
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("id", &self.0.instance.id)
            .field("node", &self.0.node)
            .field("weight", &self.0.weight)
            .finish_non_exhaustive()
    }
}
