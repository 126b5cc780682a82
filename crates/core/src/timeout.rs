//! Time-outs as they travel in headers: the format of `grpc-timeout` (gRPC over HTTP/2, "Timeout").

use std::time::Duration;

/// The most digits the format allows.
const MAX_DIGITS: usize = 8;

/// Writes a time-out: at most 8 digits and a unit, rounded up, so that a deadline is never lost to rounding.
///
/// ```
/// # use std::time::Duration;
/// # use meshwork_core::timeout;
/// assert_eq!(timeout::encode(Duration::from_millis(250)), "250000u");
/// ```
pub fn encode(timeout: Duration) -> String {
    let units: [(u128, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    // Microseconds are fine enough, and need fewer digits than nanoseconds.
    for (nanos, unit) in &units[1..] {
        let count = timeout.as_nanos().div_ceil(*nanos);
        if count < 10u128.pow(MAX_DIGITS as u32) {
            return format!("{count}{unit}");
        }
    }
    "99999999H".to_owned()
}

/// Reads a time-out; `None` when it is malformed.
pub fn parse(text: &str) -> Option<Duration> {
    let unit = text.bytes().next_back()?;
    let digits = text.get(..text.len() - 1)?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        b'n' => Duration::from_nanos(count),
        b'u' => Duration::from_micros(count),
        b'm' => Duration::from_millis(count),
        b'S' => Duration::from_secs(count),
        b'M' => Duration::from_secs(count * 60),
        b'H' => Duration::from_secs(count * 3600),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_way_through_text_rounded_up() {
        for (given, read) in [
            (Duration::ZERO, Duration::ZERO),
            (Duration::from_nanos(1), Duration::from_micros(1)),
            (Duration::from_millis(999), Duration::from_millis(999)),
            (Duration::from_secs(99), Duration::from_secs(99)),
            (Duration::from_secs(3 * 24 * 3600), Duration::from_secs(3 * 24 * 3600)),
        ] {
            assert_eq!(parse(&encode(given)), Some(read));
        }
        assert!(parse(&encode(Duration::MAX)).is_some());
    }

    #[test]
    fn malformed_ones_are_none() {
        for text in ["", "m", "5", "-5m", "+5m", "5x", "123456789m", " 5m", "5 m", "5ä"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
}
