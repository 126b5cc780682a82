//! Nodes with records as a test wants them, and callers that pick and answer at once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use meshwork_balance::{
    Arrival, Hint, Member, Node, NodeKey, Now, Outcome, Peers, Pick, Picked, Picker, Resort, SubsetId, Ticket,
};
use meshwork_core::{Instance, InstanceId, ServiceName};

pub(crate) const MS: u64 = 1_000_000;

/// What a call asks for.
pub(crate) struct Ask<'a> {
    pub(crate) hint: Hint<'a>,
    pub(crate) avoid: &'a [NodeKey],
    pub(crate) subset: Option<SubsetId>,
    pub(crate) resort: Resort,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Self { hint: Hint::Any, avoid: &[], subset: None, resort: Resort::Any }
    }
}

pub(crate) struct Fleet {
    pub(crate) clock: Arc<AtomicU64>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) nodes: Vec<Arc<Node>>,
    pub(crate) records: Vec<Instance>,
    seed: u64,
}

impl Fleet {
    /// Connected nodes whose slow start is over.
    pub(crate) fn of(count: usize) -> Self {
        let clock = Arc::new(AtomicU64::new(100_000 * MS));
        let read = Arc::clone(&clock);
        let peers = Peers::new(move || Now::from_nanos(read.load(Relaxed)));
        let mut fleet = Self { clock, peers, nodes: Vec::new(), records: Vec::new(), seed: 1 };
        for _ in 0..count {
            fleet.add(Now::from_nanos(1));
        }
        fleet
    }

    /// Adds a connected node first seen at `seen`; returns its index.
    pub(crate) fn add(&mut self, seen: Now) -> usize {
        let index = self.nodes.len();
        let service = ServiceName::new("users").expect("a name");
        let id = InstanceId::new(format!("users-{index:05}")).expect("an id");
        self.records.push(Instance::with_id(service, id));
        let address =
            format!("grpc://10.0.{}.{}:80", index / 250, index % 250 + 1).parse().expect("an endpoint");
        let node = Node::new(NodeKey::new([address]), Arc::new(index), &self.peers, Arrival::new(seen));
        node.set_ready(true);
        self.nodes.push(node);
        index
    }

    /// With weights from the first node on.
    pub(crate) fn weights(mut self, weights: &[u16]) -> Self {
        self.records.iter_mut().zip(weights).for_each(|(record, weight)| record.weight = *weight);
        self
    }

    /// With zones from the first node on.
    pub(crate) fn zones(mut self, zones: &[&str]) -> Self {
        self.records.iter_mut().zip(zones).for_each(|(record, zone)| record.zone = (*zone).into());
        self
    }

    pub(crate) fn member(&self, index: usize) -> Member {
        Member::new(Arc::clone(&self.nodes[index]), Arc::new(self.records[index].clone()))
    }

    /// The snapshot of the moment.
    pub(crate) fn members(&self) -> Arc<[Member]> {
        (0..self.nodes.len()).map(|index| self.member(index)).collect()
    }

    /// The snapshot without some.
    pub(crate) fn without(&self, gone: &[usize]) -> Arc<[Member]> {
        (0..self.nodes.len()).filter(|index| !gone.contains(index)).map(|index| self.member(index)).collect()
    }

    pub(crate) fn now(&self) -> Now {
        Now::from_nanos(self.clock.load(Relaxed))
    }

    pub(crate) fn wait(&self, ms: u64) {
        self.clock.fetch_add(ms * MS, Relaxed);
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.seed ^ (self.seed >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    /// The index of the node and the ticket, or what was answered instead.
    pub(crate) fn ask(&mut self, picker: &dyn Picker, ask: Ask<'_>) -> Result<(usize, Ticket), String> {
        let now = self.now();
        let mut random = || self.bits();
        let mut pick = Pick::new(now, &mut random).hint(ask.hint).avoid(ask.avoid).subset(ask.subset);
        pick.resort = ask.resort;
        match picker.pick(&mut pick) {
            Picked::Take(member, ticket) => {
                Ok((*member.node().attachment::<usize>().expect("the index"), ticket))
            }
            other => Err(format!("{other:?}")),
        }
    }

    pub(crate) fn pick(&mut self, picker: &dyn Picker, hint: Hint<'_>) -> (usize, Ticket) {
        self.ask(picker, Ask { hint, ..Ask::default() }).expect("a member takes the call")
    }

    /// A call that is answered well; the index of its node.
    pub(crate) fn call(&mut self, picker: &dyn Picker, hint: Hint<'_>) -> usize {
        let (index, ticket) = self.pick(picker, hint);
        ticket.finish(self.now(), Outcome::Success);
        index
    }

    /// How many of so many calls, `every` ms one, each node gets.
    pub(crate) fn shares(&mut self, picker: &dyn Picker, calls: usize, every: u64) -> Vec<usize> {
        let mut shares = vec![0; self.nodes.len()];
        for _ in 0..calls {
            shares[self.call(picker, Hint::Any)] += 1;
            self.wait(every);
        }
        shares
    }

    /// Fails `node` until it is unhealthy.
    pub(crate) fn fail(&self, node: usize) {
        for _ in 0..5 {
            let ticket = self.nodes[node].begin(self.now()).expect("a node takes the call");
            ticket.finish(self.now(), Outcome::Failure);
        }
    }

    /// Lets each node answer once or twice, so that none is unknown.
    pub(crate) fn warm(&self) {
        for node in self.nodes.iter().chain(&self.nodes) {
            node.begin(self.now())
                .expect("a node takes the call")
                .finish(self.now().after(std::time::Duration::from_millis(1)), Outcome::Success);
        }
    }
}
