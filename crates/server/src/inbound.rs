//! What the headers of a request say to the server: read once, in one pass.

use http::{HeaderMap, HeaderName, HeaderValue};
use meshwork_core::headers;
use meshwork_resilience::deadline::Carried;

use crate::Identity;

/// Whom a request is meant for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Meant {
    #[default]
    Anyone,
    Us,
    Another,
}

/// The headers that the server itself understands.
#[derive(Debug, Default)]
pub(crate) struct Inbound {
    pub(crate) meant: Meant,
    /// It carries `meshwork-*` headers.
    pub(crate) native: bool,
    pub(crate) content_length: Option<u64>,
    /// What it carries from the call that it is part of.
    pub(crate) carried: Carried,
}

impl Inbound {
    /// Reads `map`. At an edge nothing that begins with `meshwork-` is believed, but for whom it is meant.
    pub(crate) fn read(map: &HeaderMap, identity: &Identity, edge: bool) -> Self {
        let mut inbound = Self::default();
        for (name, value) in map {
            match name.as_str() {
                "content-length" => inbound.content_length = number(value),
                other if other.starts_with("meshwork-") => {
                    inbound.native = true;
                    match other {
                        headers::TO if identity.is(value) => inbound.meant = Meant::Us,
                        headers::TO => inbound.meant = Meant::Another,
                        _ if edge => {}
                        _ => inbound.carried.take(name, value),
                    }
                }
                _ => inbound.carried.take(name, value),
            }
        }
        inbound
    }

    /// Whether it is a gRPC call.
    pub(crate) fn is_grpc(&self) -> bool {
        self.carried.is_grpc()
    }
}

/// Takes away all `meshwork-*` headers.
pub(crate) fn strip(map: &mut HeaderMap) {
    let ours = map.keys().filter(|name| name.as_str().starts_with("meshwork-"));
    let ours: Vec<HeaderName> = ours.cloned().collect();
    for name in ours {
        map.remove(name);
    }
}

fn number<N: std::str::FromStr>(value: &HeaderValue) -> Option<N> {
    value.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use meshwork_core::{Context, Priority};
    use meshwork_resilience::deadline::Inherit;
    use tokio::time::Instant;

    use super::*;

    fn context(read: Inbound) -> Context {
        Inherit::default().believe(read.carried, Instant::now())
    }

    fn map(entries: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in entries {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn reads_what_travels_with_a_call() {
        let map = map(&[
            ("content-type", "application/grpc"),
            ("grpc-timeout", "250m"),
            ("meshwork-timeout", "1S"),
            ("meshwork-attempt", "2"),
            ("meshwork-lane", "blue"),
            ("meshwork-priority", "sheddable"),
            ("traceparent", "00-1-2-01"),
        ]);
        let read = Inbound::read(&map, &Identity::new(), false);
        assert!(read.is_grpc() && read.native && read.meant == Meant::Anyone);
        assert_eq!(read.carried.timeout(), Some(Duration::from_millis(250)));
        let context = context(read);
        assert_eq!((context.attempt, context.priority), (2, Priority::Sheddable));
        assert_eq!((context.lane.as_deref(), context.trace.as_deref()), (Some("blue"), Some("00-1-2-01")));
    }

    #[test]
    fn an_edge_believes_nothing_but_the_address() {
        let mut map = map(&[("meshwork-attempt", "2"), ("meshwork-lane", "x"), ("meshwork-to", "a/b")]);
        let read = Inbound::read(&map, &Identity::new(), true);
        assert_eq!(read.meant, Meant::Another);
        let context = context(read);
        assert_eq!((context.attempt, context.lane), (0, None));
        strip(&mut map);
        assert!(map.is_empty());
    }

    #[test]
    fn malformed_values_count_as_absent() {
        let map =
            map(&[("meshwork-attempt", "-1"), ("meshwork-timeout", "soon"), ("meshwork-priority", "!")]);
        let read = Inbound::read(&map, &Identity::new(), false);
        let context = context(read);
        assert_eq!((context.attempt, context.deadline, context.priority), (0, None, Priority::Normal));
    }
}
