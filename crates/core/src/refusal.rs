//! Why a record of a registry was not taken.

use std::fmt;

/// The classes of refusals, one counter each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RefusalKind {
    /// The record, or the set it belongs to, is larger than we read.
    TooLarge,
    /// Not UTF-8, not JSON, or no object.
    Syntax,
    /// A schema that we do not know.
    Schema,
    /// A field is absent or has the wrong type.
    Field,
    /// No endpoint is left that may be called.
    Address,
    /// Its service or id is not the one its key names.
    Misplaced,
    /// It belongs to another owner (file owner, cluster) than those we trust.
    Owner,
}

impl RefusalKind {
    /// Lowercase, as a label of counters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Syntax => "syntax",
            Self::Schema => "schema",
            Self::Field => "field",
            Self::Address => "address",
            Self::Misplaced => "misplaced",
            Self::Owner => "owner",
        }
    }
}

/// Why a record was not taken: its class, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    kind: RefusalKind,
    detail: Box<str>,
}

impl Refusal {
    /// A refusal of this class.
    pub fn new(kind: RefusalKind, detail: impl Into<Box<str>>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// The class.
    pub fn kind(&self) -> RefusalKind {
        self.kind
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Refusal {}
