//! What is wrong in a configuration and where: [`ConfigError`], one [`Mistake`] each, and the [`Origin`] of a value.

use crate::excerpt::Excerpt;
use std::{
    error::Error,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where a value was set; its `Display` is `config/prod.toml:12:1`, the name of a variable, `code:3:1` or `default`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// Nowhere: the built-in default holds.
    Default,
    /// In a file.
    #[non_exhaustive]
    File {
        /// The file as it was opened.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// In an environment variable.
    #[non_exhaustive]
    Env {
        /// Its name.
        variable: String,
    },
    /// In the TOML text given in code.
    #[non_exhaustive]
    Code {
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
}

/// One thing that is wrong in the configuration.
#[derive(Debug, Clone)]
pub struct Mistake(pub(crate) Box<Told>);

/// What is told about a mistake.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) origin: Option<Origin>,
    pub(crate) key: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) excerpt: Option<Excerpt>,
    pub(crate) source: Option<Arc<io::Error>>,
}

/// The configuration cannot be used; holds every mistake that was found, at least one.
///
/// `Display` (and `Debug`, which a failing `main` prints) shows each mistake with its place, an excerpt and what would be right. Values of keys that look like secrets are not shown.
#[derive(Clone)]
pub struct ConfigError {
    first: Mistake,
    others: Vec<Mistake>,
}

// === impl Mistake ===

impl Mistake {
    /// A mistake with no place. What follows the first line break in `message` becomes the hint.
    pub(crate) fn new(key: impl fmt::Display, message: impl Into<String>) -> Self {
        let message = message.into();
        let (message, hint) = match message.split_once('\n') {
            Some((message, hint)) => (message.to_owned(), Some(hint.replace('\n', " "))),
            None => (message, None),
        };
        Self(Box::new(Told {
            origin: None,
            key: key.to_string(),
            message,
            hint,
            excerpt: None,
            source: None,
        }))
    }

    pub(crate) fn with_origin(mut self, origin: Origin) -> Self {
        self.0.origin = Some(origin);
        self
    }

    pub(crate) fn with_hint(mut self, hint: Option<String>) -> Self {
        self.0.hint = hint.or(self.0.hint.take());
        self
    }

    /// Where it stands; `None` when a key is missing that no layer has a section for.
    pub fn origin(&self) -> Option<&Origin> {
        self.0.origin.as_ref()
    }

    /// The path of the key, `client.users.timeout`; empty when the text could not be parsed.
    pub fn key(&self) -> &str {
        &self.0.key
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What would be right: the nearest valid key, or the valid values.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.origin {
            Some(Origin::Env { variable }) => write!(f, "environment variable {variable}: ")?,
            Some(Origin::Default) | None => {}
            Some(origin) => write!(f, "{origin}: ")?,
        }
        f.write_str(&self.0.message)?;
        match (&self.0.excerpt, &self.0.hint) {
            (Some(excerpt), hint) => excerpt.write(f, hint.as_deref()),
            (None, Some(hint)) => write!(f, "\n  {hint}"),
            (None, None) => Ok(()),
        }
    }
}

// === impl ConfigError ===

impl ConfigError {
    /// `Ok` when nothing is wrong.
    pub(crate) fn check(mistakes: Vec<Mistake>) -> Result<(), Self> {
        let mut mistakes = mistakes.into_iter();
        match mistakes.next() {
            None => Ok(()),
            Some(first) => Err(Self { first, others: mistakes.collect() }),
        }
    }

    /// The error of a list that is known to hold a mistake.
    pub(crate) fn all(mistakes: Vec<Mistake>) -> Self {
        Self::check(mistakes).expect_err("invariant: what failed names at least one mistake")
    }

    /// Everything that is wrong, in the order of the layers and sections.
    pub fn mistakes(&self) -> impl Iterator<Item = &Mistake> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// The file of the first mistake, if it stands in one.
    pub fn file(&self) -> Option<&Path> {
        match &self.first.0.origin {
            Some(Origin::File { path, .. }) => Some(path),
            _ => None,
        }
    }

    /// The environment variable of the first mistake, if it stands in one.
    pub fn variable(&self) -> Option<&str> {
        match &self.first.0.origin {
            Some(Origin::Env { variable }) => Some(variable),
            _ => None,
        }
    }

    /// Line of the first mistake, from 1, if it stands in a text.
    pub fn line(&self) -> Option<usize> {
        match &self.first.0.origin {
            Some(Origin::File { line, .. } | Origin::Code { line, .. }) => Some(*line),
            _ => None,
        }
    }

    /// Column of the first mistake in characters, from 1, if it stands in a text.
    pub fn column(&self) -> Option<usize> {
        match &self.first.0.origin {
            Some(Origin::File { column, .. } | Origin::Code { column, .. }) => Some(*column),
            _ => None,
        }
    }

    /// The key path of the first mistake.
    pub fn key(&self) -> &str {
        self.first.key()
    }

    /// What the first mistake is, in one line.
    pub fn message(&self) -> &str {
        self.first.message()
    }

    /// What would be right instead of the first mistake.
    pub fn hint(&self) -> Option<&str> {
        self.first.hint()
    }
}

impl From<Mistake> for ConfigError {
    fn from(mistake: Mistake) -> Self {
        Self { first: mistake, others: Vec::new() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.others.is_empty() {
            return self.first.fmt(f);
        }
        write!(f, "{} mistakes in the configuration", self.others.len() + 1)?;
        self.mistakes().try_for_each(|mistake| write!(f, "\n{mistake}"))
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.first.0.source.as_ref().map(|e| &**e as &(dyn Error + 'static))
    }
}

// === impl Origin ===

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line, column } => write!(f, "{}:{line}:{column}", path.display()),
            Self::Env { variable } => f.write_str(variable),
            Self::Code { line, column } => write!(f, "code:{line}:{column}"),
        }
    }
}
