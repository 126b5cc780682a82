//! The one error type of the test bed.

use std::{error, fmt};

use meshwork_core::{BoxError, ErrorChain};

/// What a test could not do or see: what was attempted, the cause, and what the processes concerned had printed.
///
/// `Display` is one line. `Debug`, which a failing test prints, adds the causes and the output.
pub struct Error {
    attempted: String,
    output: String,
    source: Option<BoxError>,
}

impl Error {
    /// An error; `attempted` is lowercase and without a full stop.
    pub fn new(attempted: impl Into<String>) -> Self {
        Self { attempted: attempted.into(), output: String::new(), source: None }
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what a process had printed, for the reader of a failed test.
    #[must_use]
    pub fn with_output(mut self, output: impl Into<String>) -> Self {
        self.output = output.into();
        self
    }

    /// What the processes concerned had printed; often empty.
    pub fn output(&self) -> &str {
        &self.output
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.attempted)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", ErrorChain(self))?;
        if self.output.is_empty() { Ok(()) } else { write!(f, "\n{}", self.output.trim_end()) }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_test_shows_causes_and_output() {
        let cause = std::io::Error::other("no such thing");
        let error = Error::new("starting `a`").with_source(cause).with_output("said this\n");
        assert_eq!(error.to_string(), "starting `a`");
        assert_eq!(format!("{error:?}"), "starting `a`: no such thing\nsaid this");
    }
}
