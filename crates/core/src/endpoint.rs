//! Where an instance can be called: `scheme://host:port`.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    num::NonZeroU16,
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Error, ErrorKind};

/// The protocol spoken at an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Scheme {
    /// HTTP/1.1 or HTTP/2 without TLS.
    Http,
    /// HTTP/1.1 or HTTP/2 over TLS.
    Https,
    /// gRPC without TLS (HTTP/2 with prior knowledge).
    Grpc,
    /// gRPC over TLS.
    Grpcs,
}

impl Scheme {
    /// As written before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
        }
    }

    /// Whether TLS is spoken.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Grpcs)
    }

    /// Whether it is a gRPC scheme.
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::Grpcs)
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scheme {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "http" => Self::Http,
            "https" => Self::Https,
            "grpc" => Self::Grpc,
            "grpcs" => Self::Grpcs,
            _ => {
                let shown = text.escape_debug();
                return Err(Error::invalid(format!("scheme `{shown}` is none of http, https, grpc, grpcs")));
            }
        })
    }
}

/// A literal address or a name to resolve.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A literal IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A DNS name, resolved at connect.
    Name(Arc<str>),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(ip) => fmt::Display::fmt(ip, f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            return inner
                .parse::<Ipv6Addr>()
                .map(|ip| Self::Ip(ip.into()))
                .map_err(|e| Error::invalid(format!("host `{}`", text.escape_debug())).with_source(e));
        }
        if let Ok(ip) = text.parse::<std::net::Ipv4Addr>() {
            return Ok(Self::Ip(ip.into()));
        }
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(Error::invalid(format!("`{}` is no address and no host name", text.escape_debug())));
        }
        // `1.2.3` or `300.1.1.1` must not become a name that some resolver turns into an address.
        if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit())) {
            return Err(Error::invalid(format!("`{name}` is no address and no host name")));
        }
        Ok(Self::Name(text.to_ascii_lowercase().into()))
    }
}

/// `scheme://host:port` of an instance.
///
/// ```
/// # use meshwork_core::Endpoint;
/// let endpoint: Endpoint = "grpc://10.0.0.7:9000".parse()?;
/// assert_eq!(endpoint.port(), 9000);
/// assert!("grpc://10.0.0.7:0".parse::<Endpoint>().is_err());
/// # Ok::<(), meshwork_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    scheme: Scheme,
    host: Host,
    port: NonZeroU16,
}

impl Endpoint {
    /// From its parts.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the port is 0.
    pub fn new(scheme: Scheme, host: Host, port: u16) -> Result<Self, Error> {
        let port = NonZeroU16::new(port)
            .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("`{scheme}://{host}:0` has port 0")))?;
        Ok(Self { scheme, host, port })
    }

    /// From a socket address.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the port is 0.
    pub fn from_addr(scheme: Scheme, addr: SocketAddr) -> Result<Self, Error> {
        Self::new(scheme, Host::Ip(addr.ip()), addr.port())
    }

    /// The protocol.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port.get()
    }

    /// The socket address, when the host is a literal address.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port.get())),
            Host::Name(_) => None,
        }
    }

    /// `host:port`, as HTTP's authority.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let fail = || Error::invalid(format!("endpoint `{}` is not scheme://host:port", text.escape_debug()));
        let (scheme, rest) = text.split_once("://").ok_or_else(fail)?;
        let (host, port) = rest.rsplit_once(':').ok_or_else(fail)?;
        if !port.bytes().all(|b| b.is_ascii_digit()) {
            return Err(fail());
        }
        let port = port.parse().map_err(|e| fail().with_source(e))?;
        Self::new(scheme.parse()?, host.parse()?, port)
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_way_through_text() {
        for text in ["http://1.2.3.4:80", "grpc://[::1]:9000", "https://users.prod.svc:443", "grpcs://a_b:1"]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_no_endpoint() {
        for text in [
            "",
            "http://",
            "http://a",
            "http://a:",
            "http://a:0",
            "http://a:65536",
            "http://a:+1",
            "ftp://a:1",
            "http://a b:1",
            "http://a/b:1",
            "http://::1:80",
            "http://300.1.1.1:80",
            "http://[1.2.3.4]:80",
            "http://user@host:80",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
    }
}
