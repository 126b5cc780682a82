//! Where the agent is: `http://host:port`, `https://host:port`, `host:port`, or `unix:///path`.

use std::{fmt, path::PathBuf};

use http::Uri;
use meshwork_core::Error;

/// The address of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Over TCP, with TLS or without.
    Tcp { authority: String, tls: bool },
    /// Over a Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// Reads an address. Without a port it is 8500, or 8501 with TLS.
    ///
    /// # Errors
    /// `Invalid` when it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        // What stands before an `@` may be a password.
        let (user, bare) = text.rsplit_once('@').map_or(("", text), |(_, bare)| ("…@", bare));
        let fail = || {
            Error::invalid(format!(
                "consul `address` = `{user}{}` is not http(s)://host:port or unix:///path",
                bare.escape_debug()
            ))
        };
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.len() > 1 { Ok(Self::Unix(path.into())) } else { Err(fail()) };
        }
        let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = full.parse().map_err(|e| fail().with_source(e))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(fail()),
        };
        let authority = uri.authority().ok_or_else(fail)?;
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(fail());
        }
        let (host, default) = (authority.host(), if tls { 8501 } else { 8500 });
        let port = match authority.port_u16() {
            Some(0) => return Err(fail()),
            Some(port) => port,
            None if authority.as_str() == host => default,
            None => return Err(fail()),
        };
        if host.is_empty() {
            return Err(fail());
        }
        Ok(Self::Tcp { authority: format!("{host}:{port}"), tls })
    }

    /// What all request URIs begin with.
    pub(crate) fn base(&self) -> String {
        match self {
            Self::Tcp { authority, tls: false } => format!("http://{authority}"),
            Self::Tcp { authority, tls: true } => format!("https://{authority}"),
            Self::Unix(_) => "http://localhost".to_owned(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { .. } => f.write_str(&self.base()),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_read() {
        for (text, base) in [
            ("127.0.0.1:8500", "http://127.0.0.1:8500"),
            ("http://consul", "http://consul:8500"),
            ("https://consul/", "https://consul:8501"),
            ("https://[::1]:9", "https://[::1]:9"),
            ("localhost", "http://localhost:8500"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), base, "{text}");
        }
        assert_eq!(Address::parse("unix:///run/c.sock").unwrap(), Address::Unix("/run/c.sock".into()));
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "ftp://a:1",
            "http://a:0",
            "http://a:1/x",
            "http://u@a:1",
            "a b",
            "unix://",
            "http://a:99999",
        ] {
            assert!(Address::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_not_shown() {
        let said = Address::parse("http://root:s3cret@consul:8500").unwrap_err().to_string();
        assert!(!said.contains("s3cret") && said.contains("consul:8500"), "{said}");
    }
}
