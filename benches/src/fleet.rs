//! A service of N instances, its nodes, and a source of chance.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Instant,
};

use meshwork_balance::{Arrival, Member, Node, NodeKey, Now, Peers};
use meshwork_core::{BoxError, Endpoint, Instance, InstanceId, Labels, Scheme, ServiceName};

/// Nanoseconds since the first look.
pub(crate) fn now() -> Now {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    Now::from_nanos(EPOCH.get_or_init(Instant::now).elapsed().as_nanos() as u64)
}

/// splitmix64.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The `index`-th instance: a record of about 400 bytes of JSON.
pub(crate) fn instance(index: usize) -> Result<Instance, BoxError> {
    let service = ServiceName::new("users")?;
    let id = InstanceId::new(format!("users-{:032x}", (index as u128) << 64 | 0x5eed))?;
    let mut instance = Instance::with_id(service, id);
    let ip = Ipv4Addr::from(0x0a00_0001 + index as u32);
    instance.endpoints = vec![Endpoint::from_addr(Scheme::Grpc, SocketAddr::new(ip.into(), 9000))?];
    instance.env = "prod".into();
    instance.region = "region1".into();
    instance.zone = "zone1".into();
    instance.app_version = "1.2.3".into();
    instance.labels = Labels::from_iter([("team", "core"), ("track", "stable")]);
    Ok(instance)
}

/// A node of that instance, connected.
pub(crate) fn node(instance: &Instance, peers: &Arc<Peers>, attachment: &Arc<()>) -> Arc<Node> {
    let key = NodeKey::new(instance.endpoints.iter().cloned());
    let attachment: Arc<()> = Arc::clone(attachment);
    let node = Node::new(key, attachment, peers, Arrival::new(now()).running_for(Some(HOUR)));
    node.set_ready(true);
    node
}

const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);

/// `count` members with connected nodes of one cluster, sorted by id. As in a client, all records are there
/// before the first node is made.
pub(crate) fn members(count: usize) -> Result<Vec<Member>, BoxError> {
    let peers = Peers::new(now);
    let attachment = Arc::new(());
    let records = (0..count).map(|index| Ok(Arc::new(instance(index)?)));
    let records = records.collect::<Result<Vec<_>, BoxError>>()?;
    let member = |record: Arc<_>| Member::new(node(&record, &peers, &attachment), record);
    Ok(records.into_iter().map(member).collect())
}
