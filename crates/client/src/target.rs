//! How requests are addressed to one node: scheme, authority and the name in errors.

use std::{fmt::Write as _, sync::Arc};

use http::{
    HeaderValue, Uri,
    uri::{Authority, PathAndQuery, Scheme},
};
use meshwork_balance::NodeKey;

/// The fixed parts of every request to a node.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    scheme: Scheme,
    authority: Authority,
    host: HeaderValue,
    address: Arc<str>,
}

impl Target {
    pub(crate) fn new(key: &NodeKey) -> Self {
        let first = key.endpoints().first().expect("invariant: a node has an endpoint");
        let mut text = String::new();
        let _infallible = write!(text, "{}:{}", first.host(), first.port());
        // Hosts are checked where records are read; a scope or a character the URI grammar lacks stays out.
        let authority =
            Authority::try_from(text.as_str()).unwrap_or_else(|_| Authority::from_static("localhost"));
        let host =
            HeaderValue::from_str(authority.as_str()).expect("invariant: an authority is visible ASCII");
        let scheme = if first.scheme().is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        Self { scheme, authority, host, address: text.into() }
    }

    /// `host:port`, for people.
    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    /// The value of a `host` header.
    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// The absolute URI of a path here.
    pub(crate) fn uri(&self, path: PathAndQuery) -> Uri {
        self.absolute(self.authority.clone(), Some(path))
    }

    /// The absolute URI of what the caller asked for; an authority that the caller chose stands.
    pub(crate) fn uri_of(&self, asked: &Uri) -> Uri {
        let authority = asked.authority().unwrap_or(&self.authority).clone();
        self.absolute(authority, asked.path_and_query().cloned())
    }

    fn absolute(&self, authority: Authority, path: Option<PathAndQuery>) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(authority);
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        Uri::from_parts(parts).expect("invariant: scheme, authority and path make a URI")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_authority_stands_and_an_absent_one_is_the_nodes() {
        let target = Target::new(&NodeKey::new(["grpc://[::1]:9000".parse().unwrap()]));
        assert_eq!(target.uri_of(&"/a.B/C".parse().unwrap()), "http://[::1]:9000/a.B/C");
        assert_eq!(target.uri_of(&"http://users/a?b=c".parse().unwrap()), "http://users/a?b=c");
        assert_eq!(&**target.address(), "[::1]:9000");
    }
}
