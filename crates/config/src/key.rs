//! Paths of keys: `client.users.timeout` as a list of segments, as text and as an environment variable.

use std::fmt;

/// What every environment variable that sets a key begins with.
pub(crate) const PREFIX: &str = "MESHWORK__";

/// The way from the root of the configuration to a key; empty for the root itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyPath(Vec<String>);

impl KeyPath {
    /// Reads `a.b."c.d"`: dots part segments, double quotes protect dots.
    pub(crate) fn parse(text: &str) -> Self {
        let (mut segments, mut segment, mut quoted) = (Vec::new(), String::new(), false);
        for c in text.chars() {
            match c {
                '"' => quoted = !quoted,
                '.' if !quoted => segments.push(std::mem::take(&mut segment)),
                _ => segment.push(c),
            }
        }
        segments.push(segment);
        segments.retain(|s| !s.is_empty());
        Self(segments)
    }

    pub(crate) fn join(&self, segment: impl Into<String>) -> Self {
        let mut segments = self.0.clone();
        segments.push(segment.into());
        Self(segments)
    }

    /// This path followed by the segments of a path below it.
    pub(crate) fn below(&self, rest: &[String]) -> Self {
        Self(self.0.iter().chain(rest).cloned().collect())
    }

    pub(crate) fn segments(&self) -> &[String] {
        &self.0
    }

    pub(crate) fn last(&self) -> Option<&str> {
        self.0.last().map(String::as_str)
    }

    pub(crate) fn parent(&self) -> Self {
        Self(self.0[..self.0.len().saturating_sub(1)].to_vec())
    }

    /// The name of the environment variable that sets this key.
    pub(crate) fn variable(&self) -> String {
        let segments: Vec<_> = self.0.iter().map(|s| shell_name(s).to_ascii_uppercase()).collect();
        format!("{PREFIX}{}", segments.join("__"))
    }

    /// True for keys whose values must not be shown: passwords, tokens and their like.
    pub(crate) fn is_secret(&self) -> bool {
        const WORDS: [&str; 7] =
            ["password", "passwd", "passphrase", "secret", "token", "credential", "private_key"];
        self.0.iter().any(|s| {
            let s = s.to_ascii_lowercase();
            // The path of such a URL is its password.
            s == "webhook" || WORDS.iter().any(|word| s.contains(word))
        })
    }
}

impl From<&[String]> for KeyPath {
    fn from(segments: &[String]) -> Self {
        Self(segments.to_vec())
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            let bare = !segment.is_empty()
                && segment.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            if bare { f.write_str(segment)? } else { write!(f, "\"{}\"", segment.escape_debug())? }
        }
        Ok(())
    }
}

/// A key as an environment variable can spell it: lowercase, everything else than letters and digits an underscore.
pub(crate) fn shell_name(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_back_what_it_prints() {
        let path = KeyPath::parse("client.users.methods.\"users.v1.Users/GetUser\".timeout");
        assert_eq!(path.segments().len(), 5);
        assert_eq!(path.to_string(), "client.users.methods.\"users.v1.Users/GetUser\".timeout");
        assert_eq!(KeyPath::parse(&path.to_string()), path);
    }

    #[test]
    fn a_key_that_is_no_shell_name_has_an_underscored_variable() {
        assert_eq!(
            KeyPath::parse("client.user-service.timeout").variable(),
            "MESHWORK__CLIENT__USER_SERVICE__TIMEOUT"
        );
    }
}
