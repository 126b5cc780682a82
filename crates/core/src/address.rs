//! Which addresses a record may send us to.

use std::net::IpAddr;

use crate::{Endpoint, Host};

/// The rules by which addresses found in records are judged.
///
/// Unspecified, link-local, multicast and broadcast addresses are never called, whatever the rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AddressRules {
    /// Whether loopback addresses may be called. Default `true`; the `App` turns it off when the
    /// environment is neither `dev` nor `test` and the process itself does not advertise loopback.
    pub allow_loopback: bool,
}

impl Default for AddressRules {
    fn default() -> Self {
        Self { allow_loopback: true }
    }
}

impl AddressRules {
    /// Why `ip` may not be called, or `None` when it may.
    pub fn objection(&self, ip: IpAddr) -> Option<&'static str> {
        let ip = ip.to_canonical();
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0) == 0xfe80,
        };
        if ip.is_unspecified() {
            Some("unspecified address")
        } else if link_local {
            Some("link-local address")
        } else if ip.is_multicast() || matches!(ip, IpAddr::V4(v4) if v4.is_broadcast()) {
            Some("multicast address")
        } else if ip.is_loopback() && !self.allow_loopback {
            Some("loopback address")
        } else {
            None
        }
    }

    /// Why `endpoint` may not be called. A name is judged after it was resolved, so it passes here,
    /// but for `localhost`.
    pub fn objection_to(&self, endpoint: &Endpoint) -> Option<&'static str> {
        match endpoint.host() {
            Host::Ip(ip) => self.objection(*ip),
            Host::Name(name) if &**name == "localhost" && !self.allow_loopback => Some("loopback address"),
            Host::Name(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_addresses_nobody_can_serve_from() {
        let rules = AddressRules { allow_loopback: false };
        for ip in [
            "0.0.0.0",
            "::",
            "169.254.1.1",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:0.0.0.0",
        ] {
            assert!(rules.objection(ip.parse().unwrap()).is_some(), "{ip}");
        }
        assert_eq!(rules.objection("10.0.0.1".parse().unwrap()), None);
        assert_eq!(AddressRules::default().objection("127.0.0.1".parse().unwrap()), None);
    }
}
