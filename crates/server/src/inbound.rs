//! What the headers of a request say to the server: read once, in one pass.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use meshwork_core::{Priority, headers, timeout};

use crate::Identity;

/// The longest lane or trace context that is passed on, in bytes.
const MAX_TEXT: usize = 256;

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
    pub(crate) grpc: bool,
    pub(crate) meant: Meant,
    /// It carries `meshwork-*` headers.
    pub(crate) native: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) priority: Priority,
    pub(crate) attempt: u32,
    pub(crate) lane: Option<Arc<str>>,
    pub(crate) trace: Option<Arc<str>>,
    pub(crate) content_length: Option<u64>,
}

impl Inbound {
    /// Reads `map`. At an edge nothing that begins with `meshwork-` is believed, but for whom it is meant.
    pub(crate) fn read(map: &HeaderMap, identity: &Identity, edge: bool) -> Self {
        let mut inbound = Self::default();
        let (mut grpc_timeout, mut own_timeout) = (None, None);
        for (name, value) in map {
            match name.as_str() {
                "content-type" => inbound.grpc = value.to_str().is_ok_and(headers::is_grpc),
                "content-length" => inbound.content_length = number(value),
                headers::GRPC_TIMEOUT => grpc_timeout = value.to_str().ok().and_then(timeout::parse),
                headers::TRACEPARENT => inbound.trace = text(value),
                other if other.starts_with("meshwork-") => {
                    inbound.native = true;
                    match other {
                        headers::TO if identity.is(value) => inbound.meant = Meant::Us,
                        headers::TO => inbound.meant = Meant::Another,
                        _ if edge => {}
                        headers::TIMEOUT => own_timeout = value.to_str().ok().and_then(timeout::parse),
                        headers::ATTEMPT => inbound.attempt = number(value).unwrap_or(0),
                        headers::LANE => inbound.lane = text(value),
                        headers::PRIORITY => {
                            inbound.priority =
                                value.to_str().ok().and_then(Priority::parse).unwrap_or_default();
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        inbound.timeout = if inbound.grpc { grpc_timeout } else { own_timeout };
        inbound
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

fn text(value: &HeaderValue) -> Option<Arc<str>> {
    let text = value.to_str().ok()?;
    (1..=MAX_TEXT).contains(&text.len()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(read.grpc && read.native && read.meant == Meant::Anyone);
        assert_eq!(read.timeout, Some(Duration::from_millis(250)));
        assert_eq!((read.attempt, read.priority), (2, Priority::Sheddable));
        assert_eq!((read.lane.as_deref(), read.trace.as_deref()), (Some("blue"), Some("00-1-2-01")));
    }

    #[test]
    fn an_edge_believes_nothing_but_the_address() {
        let mut map = map(&[("meshwork-attempt", "2"), ("meshwork-lane", "x"), ("meshwork-to", "a/b")]);
        let read = Inbound::read(&map, &Identity::new(), true);
        assert_eq!((read.attempt, read.lane, read.meant), (0, None, Meant::Another));
        strip(&mut map);
        assert!(map.is_empty());
    }

    #[test]
    fn malformed_values_count_as_absent() {
        let map =
            map(&[("meshwork-attempt", "-1"), ("meshwork-timeout", "soon"), ("meshwork-priority", "!")]);
        let read = Inbound::read(&map, &Identity::new(), false);
        assert_eq!((read.attempt, read.timeout, read.priority), (0, None, Priority::Normal));
    }
}
