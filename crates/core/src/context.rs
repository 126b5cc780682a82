//! What travels with a call from hop to hop.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;

use crate::within;

thread_local! {
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// How much a call matters when not all can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Shed first.
    Sheddable,
    /// Most calls.
    #[default]
    Normal,
    /// Shed last; accepted only from listed peers.
    Critical,
}

impl Priority {
    /// As written in `meshwork-priority`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sheddable => "sheddable",
            Self::Normal => "normal",
            Self::Critical => "critical",
        }
    }

    /// From `meshwork-priority`; `None` for a word that is no priority.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Sheddable, Self::Normal, Self::Critical].into_iter().find(|p| p.as_str() == text)
    }
}

/// What a call inherits from the call it serves. The server puts one around each handler and around
/// polling of the response body; a `Channel` reads it by default.
///
/// ```
/// # use meshwork_core::Context;
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let mut inbound = Context::default();
/// inbound.lane = Some("blue".into());
/// inbound.scope(async { assert_eq!(Context::current().lane.as_deref(), Some("blue")) }).await;
/// assert_eq!(Context::current().lane, None);
/// # });
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Context {
    /// When the caller stops waiting.
    pub deadline: Option<Instant>,
    /// The W3C `traceparent` of the caller.
    pub trace: Option<Arc<str>>,
    /// How much the call matters.
    pub priority: Priority,
    /// The traffic lane it belongs to (a colour, a test lane).
    pub lane: Option<Arc<str>>,
    /// Which attempt of its caller this is: 0 for the first. A call made inside a retry is not retried again.
    pub attempt: u32,
    /// Who calls, where the connection tells.
    pub peer: Option<Arc<str>>,
}

impl Context {
    /// The context of the running task; the default one outside any scope.
    pub fn current() -> Self {
        Self::with_current(|context| context.cloned()).unwrap_or_default()
    }

    /// Reads the running task's context without cloning it.
    pub fn with_current<R>(read: impl FnOnce(Option<&Self>) -> R) -> R {
        let mut read = Some(read);
        let inside = CURRENT.try_with(|context| read.take().map(|read| read(context.borrow().as_ref())));
        match (inside, read) {
            (Ok(Some(result)), _) => result,
            (_, Some(read)) => read(None),
            (_, None) => unreachable!("invariant: the reader runs exactly once"),
        }
    }

    /// Runs `future` inside this context.
    ///
    /// # Cancel safety
    /// That of `future`.
    pub fn scope<F: Future>(self, future: F) -> Scope<F> {
        Scope { context: Some(self), future: Some(future) }
    }

    /// Runs `work` inside this context.
    pub fn sync_scope<R>(self, work: impl FnOnce() -> R) -> R {
        Self::within(&mut Some(self), work)
    }

    /// Runs `work` inside the context that `kept` holds, outside of any with `None`, and puts it back: for whoever polls
    /// again and again.
    pub fn within<R>(kept: &mut Option<Self>, work: impl FnOnce() -> R) -> R {
        within(&CURRENT, kept, work)
    }
}

pin_project! {
    /// The future of [`Context::scope`]; polled, and dropped, inside the context.
    #[derive(Debug)]
    #[must_use = "a future does nothing unless it is awaited"]
    pub struct Scope<F> {
        context: Option<Context>,
        // `None` once it has ended.
        #[pin]
        future: Option<F>,
    }

    impl<F> PinnedDrop for Scope<F> {
        fn drop(this: Pin<&mut Self>) {
            let mut this = this.project();
            if this.future.is_some() {
                Context::within(this.context, || this.future.set(None));
            }
        }
    }
}

impl<F: Future> Future for Scope<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        Context::within(this.context, || {
            let future = this.future.as_mut().as_pin_mut().expect("invariant: not polled after its end");
            let polled = future.poll(cx);
            if polled.is_ready() {
                this.future.set(None);
            }
            polled
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_inner_scope_wins_and_ends() {
        let outer = Context { attempt: 1, ..Context::default() };
        let inner = Context { attempt: 2, ..Context::default() };
        let seen = outer
            .scope(async {
                let inside = inner.scope(async { Context::current().attempt }).await;
                (inside, Context::with_current(|c| c.map(|c| c.attempt)))
            })
            .await;
        assert_eq!(seen, (2, Some(1)));
        assert!(Context::with_current(|c| c.is_none()));
    }

    #[test]
    fn priorities_survive_the_way_through_text() {
        for priority in [Priority::Sheddable, Priority::Normal, Priority::Critical] {
            assert_eq!(Priority::parse(priority.as_str()), Some(priority));
        }
        assert_eq!(Priority::parse("urgent"), None);
    }
}
