//! What the head of an answer says of another attempt.

use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, StatusCode};
use meshwork_core::{Delivered, headers};

use super::{Reroute, Trouble};
use crate::Pushback;

const GRPC_STATUS: &str = "grpc-status";
/// gRPC codes by number (`doc/statuscodes.md` of gRPC).
const UNKNOWN: u16 = 2;
const UNAVAILABLE: u16 = 14;

/// What the head of an answer says of another attempt. Codes that say *this instance cannot* ask for one, codes
/// that say *this request is wrong* or *the handler failed* never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Said {
    /// Nothing: it is the answer.
    Nothing,
    /// `meshwork-refused: draining`: no handler saw the request.
    Draining,
    /// `meshwork-refused: misdirected`: no handler saw the request.
    Misdirected,
    /// Refused for overload, or with a word of a later version: no handler saw the request.
    Overloaded(Pushback),
    /// gRPC UNAVAILABLE without a body, HTTP 502, 503 or 504.
    Unavailable(Pushback),
}

impl Said {
    /// Reads the head of an answer, in one pass over its headers; beside it the gRPC code when the head has
    /// one (`UNKNOWN` when it is no number).
    ///
    /// ```
    /// use http::{HeaderMap, StatusCode};
    /// use meshwork_resilience::{Pushback, retry::Said};
    /// let (said, _) = Said::of_head(false, StatusCode::SERVICE_UNAVAILABLE, &HeaderMap::new());
    /// assert_eq!(said, Said::Unavailable(Pushback::Silent));
    /// ```
    pub fn of_head(is_grpc: bool, status: StatusCode, head: &HeaderMap) -> (Self, Option<u16>) {
        let (mut refused, mut code) = (None, None);
        for (name, value) in head {
            match name.as_str() {
                headers::REFUSED => refused = Some(value),
                GRPC_STATUS => code = Some(code_of(value)),
                _ => {}
            }
        }
        let pushback = || Pushback::read(head, SystemTime::now);
        if let Some(word) = refused {
            let said = match word.to_str() {
                Ok(headers::REFUSED_DRAINING) => Self::Draining,
                Ok(headers::REFUSED_MISDIRECTED) => Self::Misdirected,
                _ => Self::Overloaded(pushback()),
            };
            return (said, code);
        }
        let unavailable = match status {
            StatusCode::OK if is_grpc => code == Some(UNAVAILABLE),
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => true,
            _ => false,
        };
        (if unavailable { Self::Unavailable(pushback()) } else { Self::Nothing }, code)
    }

    /// As a trouble, if it is one.
    pub fn trouble(self) -> Option<Trouble> {
        let not = |reroute, pushback| Trouble { delivered: Delivered::No, reroute, pushback };
        Some(match self {
            Self::Nothing => return None,
            Self::Draining | Self::Misdirected => not(Reroute::Free, Pushback::Silent),
            Self::Overloaded(pushback) => not(Reroute::Never, pushback),
            Self::Unavailable(pushback) => {
                Trouble { delivered: Delivered::Maybe, reroute: Reroute::Never, pushback }
            }
        })
    }
}

fn code_of(value: &HeaderValue) -> u16 {
    value.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn said(is_grpc: bool, status: u16, fields: &[(&'static str, &'static str)]) -> (Said, Option<u16>) {
        let head = fields
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect();
        Said::of_head(is_grpc, StatusCode::from_u16(status).unwrap(), &head)
    }

    #[test]
    fn only_this_instance_cannot_asks_for_another_attempt() {
        for status in [502, 503, 504] {
            assert_eq!(said(false, status, &[]).0, Said::Unavailable(Pushback::Silent), "{status}");
        }
        for status in [200, 404, 429, 500] {
            assert_eq!(said(false, status, &[]).0, Said::Nothing, "{status}: a handler saw it");
        }
        for (code, number) in [("0", 0), ("4", 4), ("8", 8), ("13", 13), ("nonsense", 2)] {
            assert_eq!(said(true, 200, &[("grpc-status", code)]), (Said::Nothing, Some(number)), "{code}");
        }
        assert_eq!(said(true, 200, &[]), (Said::Nothing, None), "the trailers will tell");
    }

    #[test]
    fn pushback_is_read_in_both_protocols() {
        let grpc = |millis| said(true, 200, &[("grpc-status", "14"), ("grpc-retry-pushback-ms", millis)]).0;
        assert_eq!(grpc("25"), Said::Unavailable(Pushback::After(Duration::from_millis(25))));
        assert_eq!(grpc("-1"), Said::Unavailable(Pushback::Never));
        assert_eq!(
            said(false, 503, &[("retry-after", "2")]).0,
            Said::Unavailable(Pushback::After(Duration::from_secs(2)))
        );
    }

    #[test]
    fn refusals_of_our_server_are_told_apart() {
        let refused = |word| said(false, 503, &[("meshwork-refused", word), ("retry-after", "1")]).0;
        assert_eq!(refused("draining").trouble().unwrap().reroute, Reroute::Free);
        assert_eq!(refused("misdirected").trouble().unwrap().delivered, Delivered::No);
        for word in ["overloaded", "a word of tomorrow"] {
            let trouble = refused(word).trouble().unwrap();
            assert_eq!((trouble.delivered, trouble.reroute), (Delivered::No, Reroute::Never));
            assert_eq!(trouble.pushback, Pushback::After(Duration::from_secs(1)));
        }
        assert!(Said::Nothing.trouble().is_none());
    }
}
