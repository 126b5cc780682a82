//! The first in order that can take the call.

use std::sync::Arc;

use meshwork_core::{Endpoint, Host};

use crate::{Member, Pick, Picked, Picker, Policy, Pool};

/// The first member, in a fixed order, that is connected and healthy; the others stand by.
///
/// For a primary with stand-ins and for `direct:///` targets whose order means something. The order is the one
/// given to [`in_order`](Self::in_order); behind it, and without it, the heavier comes first, then the lower id.
/// One that failed or lost its connection is passed over, and gets its calls back when it has recovered, over
/// its slow start when it is new. All clients choose the same: where load is to be shared, take another policy.
///
/// gRPC's `pick_first` (A62), over connected nodes: all are connected beforehand, so nothing waits for a dial
/// when the first one goes.
///
/// ```
/// # use std::sync::Arc;
/// # use meshwork_balance::{First, Policy};
/// let policy: Arc<dyn Policy> = Arc::new(First::in_order([
///     "grpc://10.0.0.1:9000".parse()?,
///     "grpc://10.0.0.2:9000".parse()?,
/// ]));
/// # Ok::<(), meshwork_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct First {
    order: Arc<[(Host, u16)]>,
}

impl First {
    /// These first, by host and port, whatever the scheme.
    pub fn in_order(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Self {
            order: endpoints.into_iter().map(|endpoint| (endpoint.host().clone(), endpoint.port())).collect(),
        }
    }

    fn rank(&self, member: &Member) -> usize {
        let endpoints = member.node().key().endpoints();
        let is = |(host, port): &(Host, u16)| endpoints.iter().any(|e| e.host() == host && e.port() == *port);
        self.order.iter().position(is).unwrap_or(self.order.len())
    }
}

impl Policy for First {
    fn picker(&self, members: Arc<[Member]>) -> Box<dyn Picker> {
        let pool = Pool::new(members);
        let mut order: Vec<_> = (0..pool.len())
            .map(|at| (self.rank(pool.get(at)), u16::MAX - pool.get(at).weight(), at as u32))
            .collect();
        order.sort_unstable();
        let order = order.into_iter().map(|(_, _, at)| at).collect();
        Box::new(InOrder { pool, order })
    }
}

struct InOrder {
    pool: Pool,
    order: Box<[u32]>,
}

impl Picker for InOrder {
    fn pick<'a>(&'a self, pick: &mut Pick<'_>) -> Picked<'a> {
        let order = self.order.iter().map(|at| *at as usize);
        // What a member in its slow start is spared goes to the next in order, not to anyone.
        self.pool.take_or(pick, order, |step, _| self.order[step.min(self.order.len() - 1)] as usize)
    }
}
