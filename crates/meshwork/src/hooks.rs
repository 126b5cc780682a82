//! What an author's code runs at the turns of the lifecycle.

use std::{future::Future, panic::Location, sync::Arc, time::Duration};

use meshwork_core::{BoxError, BoxFuture};
use tokio::time::{Instant, sleep_until};

use crate::{
    Handle,
    contain::{self, Contained, Failure},
};

/// The most that one `on_stop` hook may take.
const STOP: Duration = Duration::from_secs(5);

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

/// A piece of an author's code with a name and a budget of its own.
pub(crate) struct Hook {
    name: Box<str>,
    budget: Option<Duration>,
    code: Box<dyn FnOnce(Handle) -> BoxFuture<'static, Result<(), BoxError>> + Send>,
}

/// The hooks of one app, each list in the order of declaration.
#[derive(Default)]
pub(crate) struct Hooks {
    pub(crate) warm_up: Vec<Hook>,
    pub(crate) on_serving: Vec<Hook>,
    pub(crate) on_stop: Vec<Hook>,
    pub(crate) on_flush: Vec<Hook>,
}

// === impl Hook ===

impl Hook {
    pub(crate) fn new<F, Fut>(name: impl Into<Box<str>>, budget: Option<Duration>, code: F) -> Self
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        let code = Box::new(move |handle| -> BoxFuture<'static, _> {
            // The call itself is inside, for it may panic too.
            Box::pin(async move { code(handle).await.into_result() })
        });
        Self { name: name.into(), budget, code }
    }

    /// The same code under this name and with this budget.
    pub(crate) fn named(self, name: impl Into<Box<str>>, budget: Duration) -> Self {
        Self { name: name.into(), budget: Some(budget), ..self }
    }

    /// As messages call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The longest it may take; `None` for as long as the whole step.
    pub(crate) fn budget(&self) -> Option<Duration> {
        self.budget
    }

    /// Runs it until `limit` or until its own budget is used up.
    ///
    /// # Errors
    /// How it failed.
    ///
    /// # Cancel safety
    /// Dropping the future ends the hook at its next await.
    pub(crate) async fn run(self, handle: Handle, limit: Instant) -> Result<(), Failure> {
        let budget = self.budget;
        let begun = self.begin(handle);
        // From its own beginning: a machine that is slow to begin it takes nothing from its budget.
        let limit = budget.map_or(limit, |budget| limit.min(begun.began() + budget));
        let over = async {
            sleep_until(limit).await;
            limit
        };
        begun.until(over).await
    }

    /// Begins it, for as long as the caller likes.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn begin(self, handle: Handle) -> Contained {
        let shared = Arc::clone(handle.shared());
        Contained::spawn(&shared.threads, (self.code)(handle))
    }

    /// Runs it until `limit` on a thread that the end of the process does not wait for.
    ///
    /// # Errors
    /// How it failed.
    ///
    /// # Cancel safety
    /// As of [`run`](Self::run).
    pub(crate) async fn run_aside(self, handle: Handle, limit: Instant) -> Result<(), Failure> {
        contain::run_aside((self.code)(handle), limit).await
    }
}

// === impl Hooks ===

impl Hooks {
    pub(crate) fn warm_up<F, Fut>(&mut self, place: &Location<'_>, code: F)
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        push(&mut self.warm_up, "warm_up", place, None, code);
    }

    pub(crate) fn on_serving<F, Fut>(&mut self, place: &Location<'_>, code: F)
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        push(&mut self.on_serving, "on_serving", place, None, code);
    }

    pub(crate) fn on_stop<F, Fut>(&mut self, place: &Location<'_>, code: F)
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        push(&mut self.on_stop, "on_stop", place, Some(STOP), code);
    }

    pub(crate) fn on_flush<F, Fut>(&mut self, name: &str, code: F)
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.on_flush.push(Hook::new(format!("flush of `{name}`"), None, code));
    }
}

/// Adds a hook that is named by its turn, its number and the line that declares it.
fn push<F, Fut>(hooks: &mut Vec<Hook>, turn: &str, at: &Location<'_>, budget: Option<Duration>, code: F)
where
    F: FnOnce(Handle) -> Fut + Send + 'static,
    Fut: Future + Send + 'static,
    Fut::Output: Outcome,
{
    let name = format!("`{turn}` hook {} ({}:{})", hooks.len() + 1, at.file(), at.line());
    hooks.push(Hook::new(name, budget, code));
}
