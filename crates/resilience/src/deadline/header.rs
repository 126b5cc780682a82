//! The headers in which a time-out travels: `grpc-timeout` (gRPC over HTTP/2) and `meshwork-timeout` (plain HTTP).

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use meshwork_core::{headers, timeout};
use tokio::time::Instant;

use super::{Bound, Limits};

static TIMEOUT: HeaderName = HeaderName::from_static(headers::TIMEOUT);
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static(headers::GRPC_TIMEOUT);

fn name(is_grpc: bool) -> &'static HeaderName {
    if is_grpc { &GRPC_TIMEOUT } else { &TIMEOUT }
}

/// What a request's own header says of time; malformed says nothing.
pub fn asked(of: &HeaderMap, is_grpc: bool) -> Option<Duration> {
    of.get(name(is_grpc)).and_then(|value| timeout::parse(value.to_str().ok()?))
}

/// Writes the time that is left at `now` into the headers of an attempt.
pub fn write(to: &mut HeaderMap, is_grpc: bool, bound: &Bound, now: Instant) {
    let Ok(mut value) = HeaderValue::try_from(timeout::encode(bound.at().saturating_duration_since(now)))
    else {
        return;
    };
    // A value that is new for each call would only push others out of the peer's header table.
    value.set_sensitive(true);
    to.insert(name(is_grpc).clone(), value);
}

/// The same for the first attempt. A limit that is the same for each call is written as it stands, so that
/// the peer's header table holds it once. `limits` are those that `bound` was made with.
pub fn write_first(to: &mut HeaderMap, is_grpc: bool, bound: &Bound, now: Instant, limits: Limits<'_>) {
    match bound.limit(limits) {
        Some(limit) => {
            to.insert(name(is_grpc).clone(), limit.header().clone());
        }
        None => write(to, is_grpc, bound, now),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Asked, Deadline, Limit},
        *,
    };

    const MS: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn the_time_left_travels_in_the_header_of_the_protocol() {
        let now = Instant::now();
        let client = Limit::fallback(10_000 * MS, "default");
        let limits = Limits { method: None, client: Some(&client) };
        let deadline = Deadline::new(now, &Asked { option: Some(250 * MS), ..Asked::default() }, limits);
        let mut sent = HeaderMap::new();
        let bound = deadline.waiting().unwrap();
        write(&mut sent, true, bound, now + 50 * MS);
        assert_eq!(sent["grpc-timeout"], "200000u");
        assert_eq!(asked(&sent, true), Some(200 * MS));
        write_first(&mut sent, false, bound, now, limits);
        assert_eq!(sent["meshwork-timeout"], "250000u");
        let usual = Deadline::new(now, &Asked::default(), limits);
        write_first(&mut sent, true, usual.waiting().unwrap(), now + 5 * MS, limits);
        assert_eq!(sent["grpc-timeout"], "10000000u");
        write(&mut sent, true, bound, now + 9_000 * MS);
        assert_eq!(sent["grpc-timeout"], "0u", "a deadline that passed leaves nothing");
    }

    #[test]
    fn a_malformed_or_foreign_header_says_nothing() {
        let mut said = HeaderMap::new();
        said.insert("grpc-timeout", HeaderValue::from_static("soon"));
        said.insert("meshwork-timeout", HeaderValue::from_static("1S"));
        assert_eq!(asked(&said, true), None);
        assert_eq!(asked(&said, false), Some(1000 * MS));
    }
}
