//! What an author's code runs at the turns of the lifecycle.

use std::future::Future;

use meshwork_core::{BoxError, BoxFuture};

use crate::Handle;

/// What a hook may return: nothing, or a `Result` of nothing.
pub trait Outcome {
    /// As a result.
    ///
    /// # Errors
    /// The hook's error.
    fn into_result(self) -> Result<(), BoxError>;
}

impl Outcome for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> Outcome for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

pub(crate) type Hook = Box<dyn FnOnce(Handle) -> BoxFuture<'static, Result<(), BoxError>> + Send>;

/// The hooks of one app, each list in the order of declaration.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) warm_up: Vec<Hook>,
    pub(crate) on_serving: Vec<Hook>,
    pub(crate) on_stop: Vec<Hook>,
}

pub(crate) fn boxed<F, Fut>(hook: F) -> Hook
where
    F: FnOnce(Handle) -> Fut + Send + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: Outcome,
{
    Box::new(move |handle| {
        let running = hook(handle);
        Box::pin(async move { running.await.into_result() })
    })
}
