//! `[service]`: what this process is and where it can be reached.

use super::{
    notices::NoticesConfig,
    review::{Review, Reviewed},
};
use crate::{duration, layers::End, nearest::listed};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU16,
    path::PathBuf,
    time::Duration,
};

/// Labels that a record may carry; readers refuse more.
const MAX_LABELS: usize = 64;
/// Bytes of a Unix socket's path: the kernel takes 107, and a new one is made beside it under a longer name.
const MAX_HANDOVER: usize = 96;

/// `[service]`: the name, the listeners and the record of the instance.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServiceConfig {
    /// Name of the service. Default: none, the application takes the name of its executable.
    pub name: Option<String>,
    /// Where HTTP (and gRPC, unless `grpc` is set) listens, `host:port` or `[v6]:port`. Default: none, the application chooses.
    pub http: Option<String>,
    /// Where gRPC listens, `host:port`, if not together with HTTP. Default: none, one port for both.
    pub grpc: Option<String>,
    /// Environment as written into the record. Default: none, the environment that chose the files (`MESHWORK_ENV`).
    pub env: Option<String>,
    /// Region of the instance. Default: none.
    pub region: Option<String>,
    /// Zone of the instance, within its region. Default: none.
    pub zone: Option<String>,
    /// Deployment (release, colour, lane) the instance belongs to. Default: none.
    pub deployment: Option<String>,
    /// Share of the calls relative to other instances, 0 to 65535; 0 = no new calls. Default: 100.
    pub weight: u16,
    /// Free labels of the record, at most 64; public by definition, never secrets. Default: none.
    pub labels: BTreeMap<String, String>,
    /// Which address is announced. Default: found from the listeners.
    pub advertise: AdvertiseConfig,
    /// True at the edge of the mesh: `meshwork-*` headers from outside are stripped. Default: false.
    pub edge: bool,
    /// Version of the application as written into the record. Default: none, the version it was built with.
    pub version: Option<String>,
    /// Longest time of a start until the instance is to be announced: listeners, components, hooks, eager channels, readiness. What is not done then is named, and the start fails. Default: 90s.
    #[serde(with = "duration")]
    pub start_timeout: Duration,
    /// Whether the gRPC services that the code describes are told to whoever asks (server reflection). Default: none, which is true in `dev` and `test` and false elsewhere.
    pub reflection: Option<bool>,
    /// Path of a Unix socket at which a successor on this machine asks for the listening sockets; whoever starts asks there first, and the process that served until then leaves once the new one serves. At most 96 bytes. Default: none.
    pub handover: Option<PathBuf>,
    /// What follows when a part of a serving instance is not ready any more.
    pub readiness: ReadinessConfig,
    /// Who is told when something is not well.
    pub notices: NoticesConfig,
    /// TLS at every listener. Default: none.
    pub tls: Option<ServiceTlsConfig>,
}

/// `[service.tls]`: TLS at the listeners. Files are read again when they have changed; what cannot be used then changes nothing, with one warning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ServiceTlsConfig {
    /// PEM certificate, with its chain. Needed.
    pub cert_file: Option<PathBuf>,
    /// PEM key of `cert_file`. Needed.
    pub key_file: Option<PathBuf>,
    /// PEM certificates that sign those of the callers. Default: none; callers are then not asked for one.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a caller must show a certificate, where there is a `client_ca_file`: `required` or `optional`. Default: `required`.
    pub client_auth: ClientAuth,
}

/// Whether a caller must show a certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ClientAuth {
    /// A caller without one is refused.
    #[default]
    Required,
    /// A caller without one is served; one with a certificate that nobody we trust signed is not.
    Optional,
}

/// `[service.readiness]`: what the registry is told when a part of a serving instance loses its readiness. `/.meshwork/ready` and gRPC health change at once; these times keep a part that comes and goes from making every client follow.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ReadinessConfig {
    /// What is done to the record: `unready` (it says so and gets no new calls), `withdraw` (that, and it is taken out: for registries whose other readers know no status), `keep` (nothing). Default: `unready`.
    pub on_loss: OnLoss,
    /// How long something must have been not ready without a break before the registry is told. Default: 1s.
    #[serde(with = "duration")]
    pub loss_delay: Duration,
    /// How long everything must have been ready without a break before the registry is told. Default: 3s.
    #[serde(with = "duration")]
    pub return_delay: Duration,
}

/// What is done to the record of an instance that is not ready any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum OnLoss {
    /// Its status says `unready`.
    #[default]
    Unready,
    /// Its status says `unready`, then it is taken out.
    Withdraw,
    /// Nothing.
    Keep,
}

impl Default for ReadinessConfig {
    fn default() -> Self {
        Self {
            on_loss: OnLoss::default(),
            loss_delay: Duration::from_secs(1),
            return_delay: Duration::from_secs(3),
        }
    }
}

/// `[service.advertise]`: the address that others reach this instance by; at most one of `host`, `ip`, `interface` and `env`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AdvertiseConfig {
    /// A DNS name. Default: none.
    pub host: Option<String>,
    /// An address; never a wildcard. Default: none.
    pub ip: Option<IpAddr>,
    /// A network interface whose address is taken, `eth0`. Default: none.
    pub interface: Option<String>,
    /// The name of an environment variable that holds the address, `POD_IP`. Default: none.
    pub env: Option<String>,
    /// Which family is taken where an interface has both. Default: `ipv4`.
    pub prefer: IpFamily,
    /// The port to announce where it is not the one listened on, 1 to 65535. Default: none.
    pub port: Option<NonZeroU16>,
    /// True to announce a loopback address though the listener is bound to more. Default: false.
    pub allow_loopback: bool,
    /// How often it is looked whether an address that was found (from the listeners, or by `interface`) is still there; when it has moved, so does the record. 0s = never. Default: 10s.
    #[serde(with = "duration")]
    pub recheck: Duration,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpFamily {
    /// IPv4.
    #[default]
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Default for AdvertiseConfig {
    fn default() -> Self {
        Self {
            host: None,
            ip: None,
            interface: None,
            env: None,
            prefer: IpFamily::default(),
            port: None,
            allow_loopback: false,
            recheck: Duration::from_secs(10),
        }
    }
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            name: None,
            http: None,
            grpc: None,
            env: None,
            region: None,
            zone: None,
            deployment: None,
            weight: 100,
            labels: BTreeMap::new(),
            advertise: AdvertiseConfig::default(),
            edge: false,
            version: None,
            start_timeout: Duration::from_secs(90),
            reflection: None,
            handover: None,
            readiness: ReadinessConfig::default(),
            notices: NoticesConfig::default(),
            tls: None,
        }
    }
}

impl Reviewed for ServiceConfig {
    fn review(&self, review: &mut Review<'_>) {
        review.positive("start_timeout", Some(self.start_timeout));
        self.notices.review(review);
        for (key, address) in [("http", &self.http), ("grpc", &self.grpc)] {
            if let Some(fault) = address.as_deref().and_then(listener_fault) {
                review.refuse(key, End::Value, fault);
            }
        }
        let handover = self.handover.as_ref().map_or(1, |path| path.as_os_str().len());
        review.require((1..=MAX_HANDOVER).contains(&handover), "handover", || {
            format!("a path of {handover} bytes, a Unix socket's has 1 to {MAX_HANDOVER}")
        });
        review.require(self.labels.len() <= MAX_LABELS, "labels", || {
            format!("{} labels, at most {MAX_LABELS} are allowed", self.labels.len())
        });
        let advertise = &self.advertise;
        review.require(advertise.ip.is_none_or(|ip| !ip.is_unspecified()), "advertise.ip", || {
            "a wildcard is no address that others can reach".to_owned()
        });
        let ways = [
            ("host", advertise.host.is_some()),
            ("ip", advertise.ip.is_some()),
            ("interface", advertise.interface.is_some()),
            ("env", advertise.env.is_some()),
        ];
        let set: Vec<_> = ways.iter().filter(|(_, set)| *set).map(|(key, _)| *key).collect();
        if let [_, second, ..] = set[..] {
            let message = format!("only one of {} can be set", listed(set.iter().copied()));
            review.refuse(&format!("advertise.{second}"), End::Key, message);
        }
    }
}

/// Why `address` is nothing to listen on.
fn listener_fault(address: &str) -> Option<String> {
    let example = "\nwrite host:port: \"0.0.0.0:8080\", \"127.0.0.1:0\", \"[::]:8080\"";
    let Some((host, port)) = address.rsplit_once(':') else {
        return Some(format!("`{address}` has no port{example}"));
    };
    if port.parse::<u16>().is_err() {
        return Some(format!("`{port}` is no port from 0 to 65535{example}"));
    }
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let right = match bracketed {
        Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)),
    };
    (!right).then(|| format!("`{host}` is no host{example}"))
}
