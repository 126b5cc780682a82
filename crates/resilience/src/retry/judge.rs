//! How a retry layer learns what went wrong.

use http::{Response, header};
use meshwork_core::{Verdict, headers};

use super::{Said, Trouble};

/// Reads the outcome of an attempt; `None` when it stands as it is.
pub trait Judge<T, E> {
    /// What went wrong, if anything.
    fn trouble(&self, outcome: &Result<T, E>) -> Option<Trouble>;
}

/// Errors by their [`Verdict`]; every answer stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdicts;

impl<T, E: Verdict> Judge<T, E> for Verdicts {
    fn trouble(&self, outcome: &Result<T, E>) -> Option<Trouble> {
        outcome.as_ref().err().map(Trouble::of)
    }
}

/// Errors by their [`Verdict`], answers by their head ([`Said`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct Answers;

impl<B, E: Verdict> Judge<Response<B>, E> for Answers {
    fn trouble(&self, outcome: &Result<Response<B>, E>) -> Option<Trouble> {
        match outcome {
            Ok(answer) => {
                let content_type = answer.headers().get(header::CONTENT_TYPE);
                let is_grpc = content_type.is_some_and(|value| value.to_str().is_ok_and(headers::is_grpc));
                Said::of_head(is_grpc, answer.status(), answer.headers()).0.trouble()
            }
            Err(error) => Some(Trouble::of(error)),
        }
    }
}
