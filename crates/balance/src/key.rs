//! What makes a node the same node across snapshots.

use std::{
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use meshwork_core::{Endpoint, Host};

use crate::chance::{FNV, fnv};

/// The identity of a node: the endpoints (scheme and addresses) it is reached at, in sorted order.
///
/// Cheap to clone (a reference count) and to compare (a pointer or a hash in nearly all cases).
#[derive(Clone)]
pub struct NodeKey {
    hash: u64,
    endpoints: Arc<[Endpoint]>,
}

impl NodeKey {
    /// From all endpoints that reach the same node: one, or the IPv4 and IPv6 addresses of one scheme. Order
    /// and repetition do not matter.
    pub fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let mut endpoints: Vec<Endpoint> = endpoints.into_iter().collect();
        endpoints.sort_unstable();
        endpoints.dedup();
        Self { hash: stable_hash(&endpoints), endpoints: endpoints.into() }
    }

    /// The endpoints, sorted.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Whether one of the endpoints is the literal address `addr`.
    pub fn has_addr(&self, addr: SocketAddr) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.socket_addr() == Some(addr))
    }

    pub(crate) fn hash_bits(&self) -> u64 {
        self.hash
    }
}

impl PartialEq for NodeKey {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
            && (Arc::ptr_eq(&self.endpoints, &other.endpoints) || self.endpoints == other.endpoints)
    }
}

impl Eq for NodeKey {}

impl Hash for NodeKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.endpoints.iter()).finish()
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, endpoint) in self.endpoints.iter().enumerate() {
            if place > 0 {
                f.write_str(",")?;
            }
            fmt::Display::fmt(endpoint, f)?;
        }
        Ok(())
    }
}

/// Over the parts as they are written, so that all clients see the same ring.
fn stable_hash(endpoints: &[Endpoint]) -> u64 {
    endpoints.iter().fold(FNV, |hash, endpoint| {
        let hash = fnv(hash, endpoint.scheme().as_str().as_bytes());
        let hash = match endpoint.host() {
            Host::Ip(IpAddr::V4(ip)) => fnv(hash, &ip.octets()),
            Host::Ip(IpAddr::V6(ip)) => fnv(hash, &ip.octets()),
            Host::Name(name) => fnv(hash, name.as_bytes()),
        };
        fnv(hash, &endpoint.port().to_be_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(endpoints: &[&str]) -> NodeKey {
        NodeKey::new(endpoints.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        let one = key(&["grpc://1.2.3.4:1", "grpc://[::1]:1"]);
        assert_eq!(one, key(&["grpc://[::1]:1", "grpc://1.2.3.4:1", "grpc://1.2.3.4:1"]));
        assert_ne!(one, key(&["http://1.2.3.4:1", "http://[::1]:1"]));
        assert!(one.has_addr("1.2.3.4:1".parse().unwrap()) && !one.has_addr("1.2.3.4:2".parse().unwrap()));
    }

    #[test]
    fn the_hash_is_the_same_everywhere_and_for_ever() {
        // As computed from the parts by hand: the rings of clients of all versions agree by it.
        assert_eq!(key(&["grpc://10.0.0.1:80"]).hash_bits(), 0x30cd_2f79_da57_c6bc);
        assert_eq!(key(&["https://[::1]:443", "https://a.example:443"]).hash_bits(), 0x2399_40ec_7da3_8e51);
    }
}
