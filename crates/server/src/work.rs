//! What a handler may ask of the server it runs in: work that outlives its caller, and whether it is time to go.

use std::{
    future::Future,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{self, Poll},
};

use futures_util::FutureExt;
use meshwork_core::Context;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    conn::{Conn, SERVED},
    drain::{Cut, CutKind},
    panics,
    shared::{Shared, Stage},
};

/// Goes on with `work` when the handler that calls this is dropped: its caller is gone, or its deadline has passed.
///
/// The drain waits for it as for a request, and cuts and names it at its deadline. It has the handler's
/// [`Context`] without the deadline; a panic in it is counted and logged. Outside of a handler it is a task that
/// no drain waits for.
///
/// ```
/// # use meshwork_server::detach;
/// # async fn charge() -> u32 { 7 }
/// async fn pay() -> String {
///     // A caller who hangs up must not leave this half done.
///     let receipt = detach("charge", charge()).await;
///     format!("{receipt:?}")
/// }
/// ```
///
/// # Panics
/// Outside a tokio runtime.
pub fn detach<F>(name: &'static str, work: F) -> Detached<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let mut context = Context::current();
    context.deadline = None;
    let (told, result) = oneshot::channel();
    let served = SERVED.try_with(|served| served.borrow().clone()).ok().flatten();
    let owned = served.as_ref().map(|conn| Owned::new(conn, name));
    let counted = served.as_ref().map(|conn| conn.shared.sockets.token());
    let cut = served.map_or_else(CancellationToken::new, |conn| conn.shared.cut.clone());
    // Owned by the drain: it waits for `counted` and ends it by `cut`.
    tokio::spawn(async move {
        let (owned, _counted) = (owned, counted);
        let work = AssertUnwindSafe(context.scope(work)).catch_unwind();
        tokio::select! {
            done = work => match done {
                // Whoever asked may be gone.
                Ok(done) => drop(told.send(done)),
                Err(panic) => {
                    if let Some(owned) = &owned {
                        owned.shared.counters.panics.fetch_add(1, Relaxed);
                    }
                    tracing::error!(task = name, panic = panics::text_of(&*panic), "detached work panicked");
                }
            },
            () = cut.cancelled() => {}
        }
    });
    Detached(result)
}

/// The result of [`detach`]ed work: `None` when it panicked or was cut by the drain. Dropping it changes nothing.
#[derive(Debug)]
#[must_use = "a future; drop it when the result does not matter"]
pub struct Detached<T>(oneshot::Receiver<T>);

impl<T> Future for Detached<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}

/// Whether the server of the handler that asks has begun to drain; never, outside of a handler.
///
/// For what would last until the drain's deadline: a long poll answers, a WebSocket says goodbye.
///
/// ```
/// async fn next_event() -> &'static str {
///     let draining = meshwork_server::draining();
///     tokio::select! {
///         () = draining.begun() => "nothing yet",
///         event = async { "event" } => event,
///     }
/// }
/// ```
pub fn draining() -> Draining {
    let served = SERVED.try_with(|served| served.borrow().clone()).ok().flatten();
    Draining(served.map(|conn| conn.shared.draining.clone()).unwrap_or_default())
}

/// See [`draining`]. May be taken along to tasks that the handler leaves behind.
#[derive(Clone, Debug)]
pub struct Draining(CancellationToken);

impl Draining {
    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until it begins.
    ///
    /// # Cancel safety
    /// May be dropped; asked again, it says the same.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}

/// Detached work under way; dropping it ends it.
struct Owned {
    shared: Arc<Shared>,
    peer: SocketAddr,
    name: &'static str,
    began: Instant,
}

impl Owned {
    fn new(conn: &Conn, name: &'static str) -> Self {
        conn.shared.counters.detached.fetch_add(1, Relaxed);
        Self { shared: conn.shared.clone(), peer: conn.peer, name, began: Instant::now() }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let cut = self.shared.stage() == Stage::Cut;
        if cut {
            let (age, task) = (self.began.elapsed(), Some(self.name));
            self.shared.report(Cut { peer: self.peer, kind: CutKind::Detached, request: None, task, age });
        }
        self.shared.counters.detached.fetch_sub(1, Relaxed);
        if cut {
            self.shared.dropped.notify_one();
        }
    }
}
