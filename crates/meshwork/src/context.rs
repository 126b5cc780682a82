//! Tasks that go on with the context of the call that began them.

use std::future::Future;

use meshwork_core::Context;
use tokio::task::JoinHandle;

/// Spawns a task that inherits the running call's [`Context`]: deadline, priority, lane, trace.
///
/// The task is the caller's: keep the handle, or let it end by itself.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(Context::current().scope(future))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_spawned_task_keeps_the_lane_of_its_call() {
        let mut call = Context::default();
        call.lane = Some("blue".into());
        let inside = call.scope(async { spawn(async { Context::current().lane }).await.unwrap() }).await;
        assert_eq!(inside.as_deref(), Some("blue"));
    }
}
