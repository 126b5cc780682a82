//! What a server says of another attempt: `grpc-retry-pushback-ms` (gRFC A6) and `retry-after` (RFC 9110 §10.2.3).

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The header, or trailer, of gRFC A6; understood in plain HTTP answers too.
pub const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What a server says of another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Pushback {
    /// Nothing.
    #[default]
    Silent,
    /// Not before this.
    After(Duration),
    /// Never.
    Never,
}

impl Pushback {
    /// Reads the head or the trailers of an answer. The gRPC header is the exacter one and wins.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use meshwork_resilience::Pushback;
    /// let mut headers = http::HeaderMap::new();
    /// headers.insert("retry-after", "2".parse()?);
    /// assert_eq!(Pushback::read(&headers, SystemTime::now), Pushback::After(Duration::from_secs(2)));
    /// headers.insert("grpc-retry-pushback-ms", "-1".parse()?);
    /// assert_eq!(Pushback::read(&headers, SystemTime::now), Pushback::Never);
    /// # Ok::<(), http::header::InvalidHeaderValue>(())
    /// ```
    ///
    /// `wall` is asked only for a date in `retry-after`.
    pub fn read(headers: &HeaderMap, wall: impl FnOnce() -> SystemTime) -> Self {
        if let Some(value) = headers.get(PUSHBACK) {
            return Self::of_grpc(value.as_bytes());
        }
        headers.get(header::RETRY_AFTER).map_or(Self::Silent, |value| Self::of_http(value.as_bytes(), wall))
    }

    /// The value of `grpc-retry-pushback-ms`: milliseconds, at most 2³¹ − 1; a negative or unreadable value
    /// means not to try again (gRFC A6).
    pub fn of_grpc(value: &[u8]) -> Self {
        match number(value) {
            Some(Ok(millis)) if i32::try_from(millis).is_ok() => Self::After(Duration::from_millis(millis)),
            _ => Self::Never,
        }
    }

    /// The value of `retry-after`: whole seconds, or a date in one of the three spellings that HTTP allows. A
    /// past date is now, an unreadable value says nothing, more seconds than a number holds are for ever.
    pub fn of_http(value: &[u8], wall: impl FnOnce() -> SystemTime) -> Self {
        match number(value) {
            Some(Ok(seconds)) => return Self::After(Duration::from_secs(seconds)),
            Some(Err(TooLarge)) => return Self::After(Duration::MAX),
            None => {}
        }
        let date = std::str::from_utf8(value).ok().and_then(|text| httpdate::parse_http_date(text).ok());
        let wait = date.map(|date| date.duration_since(wall()).unwrap_or_default());
        wait.map_or(Self::Silent, Self::After)
    }

    /// Says to the caller, in the head of an answer or in trailers, that another attempt will not help.
    pub fn forbid(headers: &mut HeaderMap) {
        headers.insert(PUSHBACK, HeaderValue::from_static("-1"));
    }

    /// What the server asked for, as a [`Verdict`](meshwork_core::Verdict) tells it.
    pub fn asked(self) -> Option<Duration> {
        match self {
            Self::After(wait) => Some(wait),
            Self::Silent | Self::Never => None,
        }
    }

    /// How long to wait at least.
    pub fn wait(self) -> Duration {
        self.asked().unwrap_or_default()
    }
}

impl From<Option<Duration>> for Pushback {
    /// As a [`Verdict`](meshwork_core::Verdict) tells it.
    fn from(pushback: Option<Duration>) -> Self {
        pushback.map_or(Self::Silent, Self::After)
    }
}

struct TooLarge;

/// Digits and nothing else.
fn number(value: &[u8]) -> Option<Result<u64, TooLarge>> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |number: u64, digit: &u8| number.checked_mul(10)?.checked_add(u64::from(digit - b'0'));
    Some(value.iter().try_fold(0, add).ok_or(TooLarge))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn noon() -> SystemTime {
        httpdate::parse_http_date("Fri, 20 Nov 2026 12:00:00 GMT").unwrap()
    }

    #[test]
    fn grpc_says_milliseconds_or_never() {
        assert_eq!(Pushback::of_grpc(b"25"), Pushback::After(Duration::from_millis(25)));
        assert_eq!(Pushback::of_grpc(b"0"), Pushback::After(Duration::ZERO));
        for text in ["-1", "", "soon", "+5", "1.5", " 5", "99999999999999999999", "4294967296"] {
            assert_eq!(Pushback::of_grpc(text.as_bytes()), Pushback::Never, "{text:?}");
        }
    }

    #[test]
    fn http_says_seconds_or_a_date() {
        let read = |text: &str| Pushback::of_http(text.as_bytes(), noon);
        assert_eq!(read("2"), Pushback::After(2 * SECOND));
        for date in
            ["Fri, 20 Nov 2026 12:00:30 GMT", "Friday, 20-Nov-26 12:00:30 GMT", "Fri Nov 20 12:00:30 2026"]
        {
            assert_eq!(read(date), Pushback::After(30 * SECOND), "{date}");
        }
        assert_eq!(read("Fri, 20 Nov 2026 11:00:00 GMT"), Pushback::After(Duration::ZERO));
        assert_eq!(read("99999999999999999999"), Pushback::After(Duration::MAX));
        for text in ["", "-1", "+5", "1.5", "soon", "Fri, 99 Nov 2026 12:00:00 GMT"] {
            assert_eq!(read(text), Pushback::Silent, "{text:?}");
        }
    }

    #[test]
    fn what_was_forbidden_is_read_as_forbidden_in_either_protocol() {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        Pushback::forbid(&mut headers);
        assert_eq!(Pushback::read(&headers, noon), Pushback::Never);
        assert_eq!(Pushback::read(&HeaderMap::new(), noon), Pushback::Silent);
    }
}
