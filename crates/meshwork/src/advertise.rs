//! Which address of this process the others are told.

use std::{
    env,
    net::{IpAddr, SocketAddr},
};

use meshwork_config::{AdvertiseConfig, IpFamily};
use meshwork_core::{AddressRules, Endpoint, Host, Scheme};

use crate::RunError;

/// What a listener offers to others.
#[derive(Clone, Debug)]
pub(crate) struct Offer {
    pub(crate) bound: SocketAddr,
    pub(crate) schemes: Vec<Scheme>,
}

/// One address of an interface of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) interface: String,
    pub(crate) ip: IpAddr,
}

/// All addresses of this machine; empty when it cannot tell.
pub(crate) fn candidates() -> Vec<Candidate> {
    let found = if_addrs::get_if_addrs().unwrap_or_default();
    found.into_iter().map(|found| Candidate { ip: found.ip(), interface: found.name }).collect()
}

/// Where others find what is offered.
///
/// # Errors
/// [`RunError::Advertise`] when nothing usable is left; it says which key to set.
pub(crate) fn endpoints(
    config: &AdvertiseConfig,
    offers: &[Offer],
    machine: &[Candidate],
) -> Result<Vec<Endpoint>, RunError> {
    let mut endpoints = Vec::new();
    for offer in offers {
        let (host, port) = choose(config, offer.bound, machine)?;
        for scheme in &offer.schemes {
            endpoints.push(Endpoint::new(*scheme, host.clone(), port)?);
        }
    }
    Ok(endpoints)
}

/// The host and port to announce for a listener bound to `bound`.
///
/// # Errors
/// [`RunError::Advertise`] when nothing usable is left; it says which key to set.
fn choose(
    config: &AdvertiseConfig,
    bound: SocketAddr,
    machine: &[Candidate],
) -> Result<(Host, u16), RunError> {
    let port = config.port.map_or(bound.port(), std::num::NonZero::get);
    let fail = |reason: String| RunError::Advertise { bound, reason: reason.into() };
    let named = |key: &str, text: &str| {
        let host: Host = text
            .trim()
            .parse()
            .map_err(|e: meshwork_core::Error| fail(format!("`service.advertise.{key}`: {e}")))?;
        match &host {
            Host::Ip(ip) => match objection(config, bound, *ip) {
                Some(objection) => {
                    Err(fail(format!("`service.advertise.{key}` is {ip}, which is a {objection}")))
                }
                None => Ok(host),
            },
            Host::Name(_) => Ok(host),
        }
    };
    let host = if let Some(host) = &config.host {
        named("host", host)?
    } else if let Some(ip) = config.ip {
        named("ip", &Host::Ip(ip).to_string())?
    } else if let Some(variable) = &config.env {
        let value = env::var(variable).map_err(|e| {
            fail(format!("`service.advertise.env` names `{variable}`, which cannot be read: {e}"))
        })?;
        named("env", &value)?
    } else if let Some(interface) = &config.interface {
        let of_it: Vec<_> = machine.iter().filter(|c| c.interface == *interface).cloned().collect();
        let ip = best(config, bound, &of_it).ok_or_else(|| {
            let mut known: Vec<_> = machine.iter().map(|c| &*c.interface).collect();
            known.dedup();
            fail(format!(
                "`service.advertise.interface` is `{interface}`, which has no usable address; there are {}",
                known.join(", ")
            ))
        })?;
        Host::Ip(ip)
    } else if bound.ip().is_unspecified() {
        let ip = best(config, bound, machine).ok_or_else(|| {
            fail(
                "this machine has only loopback or link-local addresses; set `service.advertise.ip` \
                 or bind `service.http` to an address that others reach"
                    .to_owned(),
            )
        })?;
        Host::Ip(ip)
    } else {
        Host::Ip(bound.ip())
    };
    Ok((host, port))
}

/// Why others could not use it.
pub(crate) fn objection(config: &AdvertiseConfig, bound: SocketAddr, ip: IpAddr) -> Option<&'static str> {
    let mut rules = AddressRules::default();
    rules.allow_loopback = config.allow_loopback || bound.ip().is_loopback();
    rules.objection(ip)
}

/// Whether the address is one that was found, so that it can move while the app runs.
pub(crate) fn is_found(config: &AdvertiseConfig, bound: SocketAddr) -> bool {
    let is_said = config.host.is_some() || config.ip.is_some() || config.env.is_some();
    !is_said && (config.interface.is_some() || bound.ip().is_unspecified())
}

/// Private before public, the preferred family before the other; never loopback unless asked, never
/// link-local.
fn best(config: &AdvertiseConfig, bound: SocketAddr, of: &[Candidate]) -> Option<IpAddr> {
    let family_fits = |ip: &IpAddr| ip.is_ipv4() == matches!(config.prefer, IpFamily::Ipv4);
    let reachable = |ip: &IpAddr| ip.is_ipv4() || bound.is_ipv6();
    of.iter()
        .map(|candidate| candidate.ip)
        .filter(|ip| objection(config, bound, *ip).is_none() && reachable(ip))
        .min_by_key(|ip| (ip.is_loopback(), !family_fits(ip), !is_private(ip)))
}

fn is_private(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(ips: &[(&str, &str)]) -> Vec<Candidate> {
        ips.iter()
            .map(|(name, ip)| Candidate { interface: (*name).into(), ip: ip.parse().unwrap() })
            .collect()
    }

    fn chosen(config: &AdvertiseConfig, bound: &str, ips: &[(&str, &str)]) -> Result<String, String> {
        choose(config, bound.parse().unwrap(), &machine(ips))
            .map(|(host, port)| format!("{host}:{port}"))
            .map_err(|e| e.to_string())
    }

    const TWO: &[(&str, &str)] =
        &[("lo", "127.0.0.1"), ("eth1", "203.0.113.7"), ("eth0", "10.0.0.7"), ("eth0", "fd00::7")];

    #[test]
    fn a_bound_address_is_announced_as_it_is() {
        let config = AdvertiseConfig::default();
        assert_eq!(chosen(&config, "127.0.0.1:80", TWO).unwrap(), "127.0.0.1:80");
        assert_eq!(chosen(&config, "203.0.113.7:80", TWO).unwrap(), "203.0.113.7:80");
    }

    #[test]
    fn a_wildcard_announces_a_private_address_of_the_preferred_family() {
        let mut config = AdvertiseConfig::default();
        assert_eq!(chosen(&config, "0.0.0.0:80", TWO).unwrap(), "10.0.0.7:80");
        config.prefer = IpFamily::Ipv6;
        assert_eq!(chosen(&config, "[::]:80", TWO).unwrap(), "[fd00::7]:80");
        assert_eq!(chosen(&config, "0.0.0.0:80", TWO).unwrap(), "10.0.0.7:80");
        config.interface = Some("eth1".into());
        config.port = std::num::NonZero::new(8443);
        assert_eq!(chosen(&config, "0.0.0.0:80", TWO).unwrap(), "203.0.113.7:8443");
    }

    #[test]
    fn without_a_usable_address_the_error_names_the_key_to_set() {
        let mut config = AdvertiseConfig::default();
        let none = [("lo", "127.0.0.1"), ("eth0", "169.254.3.4"), ("eth0", "fe80::1")];
        assert!(chosen(&config, "0.0.0.0:80", &none).unwrap_err().contains("service.advertise.ip"));
        config.allow_loopback = true;
        assert_eq!(chosen(&config, "0.0.0.0:80", &none).unwrap(), "127.0.0.1:80");
        config.interface = Some("wlan0".into());
        assert!(chosen(&config, "0.0.0.0:80", TWO).unwrap_err().contains("eth0"));
    }

    #[test]
    fn a_wildcard_or_a_foreign_loopback_is_refused_even_when_configured() {
        let mut config = AdvertiseConfig::default();
        config.ip = Some("0.0.0.0".parse().unwrap());
        assert!(chosen(&config, "0.0.0.0:80", TWO).unwrap_err().contains("unspecified"));
        config.ip = Some("127.0.0.1".parse().unwrap());
        assert!(chosen(&config, "0.0.0.0:80", TWO).unwrap_err().contains("loopback"));
    }
}
