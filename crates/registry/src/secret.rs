//! A text that is not shown.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};

/// A password or a token in a backend's configuration. Neither `Debug` nor serialization shows it.
///
/// ```
/// # use meshwork_registry::Secret;
/// let token = Secret::from("4f8a");
/// assert_eq!(token.reveal(), "4f8a");
/// assert_eq!(format!("{token:?}"), "…");
/// ```
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(Arc<str>);

impl Secret {
    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str("…")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
