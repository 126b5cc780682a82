//! Durations as text with a unit, `"300ms"`, `"3s"`, `"1m"`, for serde's `with` attribute; applications may use it in their own sections.
//!
//! ```
//! # use std::time::Duration;
//! #[derive(serde::Deserialize)]
//! struct Outbox {
//!     #[serde(with = "meshwork_config::duration")]
//!     flush_every: Duration,
//!     #[serde(default, with = "meshwork_config::duration::option")]
//!     give_up_after: Option<Duration>,
//! }
//! ```

use serde::{
    Deserializer, Serializer,
    de::{self, Visitor},
};
use std::{fmt, time::Duration};

/// What is right, for every error about a duration.
const VALID: &str = "write a number and a unit: \"300ms\", \"3s\", \"1m\" (units: us, ms, s, m, h, d)";

struct Text;

struct Optional;

/// Reads a duration from text with a unit.
///
/// # Errors
/// The value is no text, has no unit or an unknown one.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    deserializer.deserialize_str(Text)
}

/// Writes a duration as text with units, `1m 30s`.
///
/// # Errors
/// Those of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_duration(*duration))
}

/// The same for keys that may be absent; to be used with `#[serde(default)]`.
pub mod option {
    use super::Optional;
    use serde::{Deserializer, Serializer};
    use std::time::Duration;

    /// Reads a duration from text with a unit; an absent value is `None`.
    ///
    /// # Errors
    /// The value is no text, has no unit or an unknown one.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
        deserializer.deserialize_option(Optional)
    }

    /// Writes a duration as text with units, or nothing.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }
}

impl Visitor<'_> for Text {
    type Value = Duration;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with a unit, such as \"300ms\", \"3s\" or \"1m\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        humantime::parse_duration(text.trim()).map_err(|_| {
            let text: String = text.chars().take(40).collect();
            if text.trim().parse::<f64>().is_ok() {
                E::custom(format!("`{text}` has no unit\n{VALID}"))
            } else {
                E::custom(format!("`{text}` is no duration\n{VALID}"))
            }
        })
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Duration, E> {
        Err(E::custom(format!("`{number}` has no unit\n{VALID}")))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Duration, E> {
        Err(E::custom(format!("`{number}` has no unit\n{VALID}")))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Duration, E> {
        Err(E::custom(format!("`{number}` has no unit\n{VALID}")))
    }
}

impl<'de> Visitor<'de> for Optional {
    type Value = Option<Duration>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Text.expecting(f)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserialize(deserializer).map(Some)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}
