//! A spawned task with a name, an owner and an end.

use std::{borrow::Cow, fmt, time::Duration};

use tokio::{task::JoinHandle, time};
use tokio_util::sync::CancellationToken;

/// Owns one spawned task. Dropping it tells the task to stop and cuts it.
///
/// The owner spawns in its own module and hands the handle over:
///
/// ```
/// # use meshwork_core::Task;
/// # use tokio_util::sync::CancellationToken;
/// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
/// let stop = CancellationToken::new();
/// let stopped = stop.clone();
/// let task = Task::new("heartbeat", stop, tokio::spawn(async move { stopped.cancelled().await }));
/// assert!(task.end(std::time::Duration::from_secs(1)).await);
/// # });
/// ```
pub struct Task {
    name: Cow<'static, str>,
    stop: CancellationToken,
    handle: Option<JoinHandle<()>>,
}

impl Task {
    /// Owns `handle`, whose task ends soon after `stop` is cancelled.
    pub fn new(name: impl Into<Cow<'static, str>>, stop: CancellationToken, handle: JoinHandle<()>) -> Self {
        Self { name: name.into(), stop, handle: Some(handle) }
    }

    /// Its name, for logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Asks it to stop, without waiting.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Asks it to stop, waits at most `within`, then cuts it. Says whether it ended by itself and well.
    ///
    /// # Cancel safety
    /// Dropping the future cuts the task.
    pub async fn end(mut self, within: Duration) -> bool {
        self.stop.cancel();
        let Some(mut handle) = self.handle.take() else { return true };
        let _cut = AbortOnDrop(handle.abort_handle());
        match time::timeout(within, &mut handle).await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(task = %self.name, %error, "task failed");
                false
            }
            Err(_elapsed) => {
                tracing::warn!(task = %self.name, ?within, "task did not stop in time and was cut");
                false
            }
        }
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(handle) = &self.handle {
            handle.abort();
        }
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("name", &self.name).field("finished", &self.is_finished()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_listen_is_cut_at_the_deadline() {
        let deaf = tokio::spawn(std::future::pending());
        let watched = deaf.abort_handle();
        assert!(!Task::new("deaf", CancellationToken::new(), deaf).end(Duration::from_secs(3)).await);
        while !watched.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_owner_ends_the_task() {
        let handle = tokio::spawn(std::future::pending());
        let watched = handle.abort_handle();
        drop(Task::new("owned", CancellationToken::new(), handle));
        while !watched.is_finished() {
            tokio::task::yield_now().await;
        }
    }
}
