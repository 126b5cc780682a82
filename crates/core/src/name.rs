//! Names of services and ids of instances, validated once where they enter.

use std::{
    borrow::Borrow,
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    str::FromStr,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The most bytes that a name or an id may have.
const MAX_BYTES: usize = 128;

/// Why a text is no service name or instance id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameError {
    what: &'static str,
    text: Box<str>,
    reason: &'static str,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a {}: {} (allowed: a letter or digit, then letters, digits, `.`, `_`, `-`, \
             at most {MAX_BYTES} in all)",
            self.text.escape_debug(),
            self.what,
            self.reason
        )
    }
}

impl std::error::Error for NameError {}

fn check(what: &'static str, text: &str) -> Result<(), NameError> {
    let fail = |reason| {
        let shown = text.chars().take(MAX_BYTES + 1).collect::<String>();
        Err(NameError { what, text: shown.into(), reason })
    };
    let Some(first) = text.bytes().next() else { return fail("it is empty") };
    if text.len() > MAX_BYTES {
        return fail("it is too long");
    }
    if !first.is_ascii_alphanumeric() {
        return fail("it does not begin with a letter or digit");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return fail("it has a character that is not allowed");
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Validates `text`.
            ///
            /// # Errors
            /// [`NameError`] unless it is `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                check($what, text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(from)?).map_err(de::Error::custom)
            }
        }
    };
}

name!(
    /// The name of a service: `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`.
    ///
    /// ```
    /// # use meshwork_core::ServiceName;
    /// assert!(ServiceName::new("users").is_ok());
    /// assert!(ServiceName::new("../users").is_err());
    /// ```
    ServiceName, "service name"
);

name!(
    /// The id of one instance: one process of a service, from start to exit.
    ///
    /// It is the service's name and 128 random bits, made anew by each process; it is never configured.
    InstanceId, "instance id"
);

impl InstanceId {
    /// A new id for one process of `service`: its name (cut to 95 bytes) and 32 hexadecimal digits.
    pub fn generate(service: &ServiceName) -> Self {
        // RandomState is seeded by the operating system; the counter inside makes each value new.
        let half = || RandomState::new().build_hasher().finish();
        let name = &service.as_str()[..service.as_str().len().min(95)];
        Self(format!("{name}-{:016x}{:016x}", half() ^ os_entropy(), half()).into())
    }
}

/// Bits that two clones of one process image do not share: the clock and the process id.
fn os_entropy() -> u64 {
    let clock = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos() as u64);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(clock);
    hasher.write_u32(std::process::id());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_could_leave_its_folder_or_its_key() {
        for bad in ["", ".", "..", "-x", "_x", "a/b", "a b", "ä", "a\n", &"x".repeat(129)] {
            assert!(ServiceName::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "A.b_c-9", &"x".repeat(128)] {
            assert!(ServiceName::new(good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn the_error_says_what_is_allowed() {
        let text = ServiceName::new("-x").unwrap_err().to_string();
        assert!(text.contains("`-x` is not a service name") && text.contains("allowed"), "{text}");
    }

    #[test]
    fn generated_ids_are_new_each_time_and_valid() {
        let service = ServiceName::new("x".repeat(128)).unwrap();
        let (a, b) = (InstanceId::generate(&service), InstanceId::generate(&service));
        assert_ne!(a, b);
        assert!(InstanceId::new(a.as_str()).is_ok());
    }
}
