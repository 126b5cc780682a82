//! Runs an author's code on a thread of its own, so that what it does wrong stays its own: a panic becomes an error, a
//! time limit holds though it blocks its thread, and dropping the future here ends it.
//!
//! On a worker of the runtime one hook that blocks could stop everything: nobody may be left to watch timers and sockets.

use std::{
    any::Any,
    error, fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Duration,
};

use meshwork_core::BoxError;
use tokio::{
    runtime, select,
    sync::oneshot,
    task,
    task::{JoinError, JoinHandle},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Span;

/// How long code that was cut may take to be gone.
const DROPPING: Duration = Duration::from_millis(100);
/// How often it is looked at meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// How code ended that did not end well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It returned an error.
    Error(BoxError),
    /// It panicked, with this message.
    Panic(Box<str>),
    /// It was cut at its limit.
    Overran {
        /// How long it had.
        had: Duration,
        /// Whether it blocks its thread, so that nothing can end it but the end of the process.
        stuck: bool,
    },
}

/// Counts code that runs: what is left of it after it was cut blocks its thread.
#[derive(Debug, Default)]
pub(crate) struct Threads(Arc<()>);

/// Code that runs. Dropping it ends the code at its next await.
pub(crate) struct Contained {
    thread: JoinHandle<Result<(), BoxError>>,
    /// Ends it when dropped.
    cut: Option<DropGuard>,
    began: Instant,
}

// === impl Threads ===

impl Threads {
    /// One more, as long as the answer lives.
    fn count(&self) -> Arc<()> {
        Arc::clone(&self.0)
    }

    /// As a task of `code`, which ends with it.
    pub(crate) fn counting<F: Future>(&self, code: F) -> impl Future<Output = F::Output> + use<F> {
        let counted = self.count();
        async move {
            let _counted = counted;
            code.await
        }
    }

    /// Whether any is left, though it had a moment to be gone.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing.
    pub(crate) async fn are_left(&self) -> bool {
        let end = Instant::now() + DROPPING;
        while Arc::strong_count(&self.0) > 1 {
            if Instant::now() >= end {
                return true;
            }
            sleep(LOOK).await;
        }
        false
    }
}

// === impl Contained ===

impl Contained {
    /// Begins `code` on a thread that `threads` counts.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn spawn<F>(threads: &Threads, code: F) -> Self
    where
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let ((cut, code), counted) = (held(code), threads.count());
        let thread = task::spawn_blocking(move || {
            let _counted = counted;
            code()
        });
        Self { thread, cut: Some(cut), began: Instant::now() }
    }

    /// When it was begun.
    pub(crate) fn began(&self) -> Instant {
        self.began
    }

    /// Waits for its end. Not to be asked again afterwards.
    ///
    /// # Errors
    /// How it failed.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing.
    pub(crate) async fn ended(&mut self) -> Result<(), Failure> {
        judged((&mut self.thread).await)
    }

    /// Waits for its end, and cuts it when `over` is ready first: with the moment at which its time was over.
    ///
    /// # Errors
    /// How it failed.
    ///
    /// # Cancel safety
    /// Dropping the future ends the code at its next await.
    pub(crate) async fn until(mut self, over: impl Future<Output = Instant>) -> Result<(), Failure> {
        let limit = select! {
            // What has ended was not cut.
            biased;
            ended = self.ended() => return ended,
            limit = over => limit,
        };
        let had = limit.saturating_duration_since(self.began);
        drop(self.cut.take());
        let stuck = timeout(DROPPING, &mut self.thread).await.is_err();
        Err(Failure::Overran { had, stuck })
    }
}

/// Runs `code` until `limit`, as [`Contained`] does, on a thread that the end of the runtime does not wait for: one that blocks it delays nobody.
///
/// # Errors
/// How it failed.
///
/// # Panics
/// Outside a tokio runtime.
///
/// # Cancel safety
/// Dropping the future ends the code at its next await.
pub(crate) async fn run_aside<F>(code: F, limit: Instant) -> Result<(), Failure>
where
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let began = Instant::now();
    let (_cut, code) = held(code);
    let (tell, mut told) = oneshot::channel();
    let run = move || {
        let _nobody_waits = tell.send(catch_unwind(AssertUnwindSafe(code)));
    };
    // Its end is awaited here; one that blocks it is left to the end of the process.
    thread::Builder::new().name("aside".into()).spawn(run).map_err(|e| Failure::Error(e.into()))?;
    match timeout_at(limit, &mut told).await {
        Ok(Ok(Ok(result))) => result.map_err(Failure::Error),
        Ok(Ok(Err(panic))) => Err(Failure::Panic(message(&*panic))),
        Ok(Err(gone)) => Err(Failure::Error(gone.into())),
        Err(_elapsed) => Err(Failure::Overran { had: limit.saturating_duration_since(began), stuck: false }),
    }
}

/// `code` to be run on a thread of its own, and what ends it there at its next await when dropped.
fn held<F>(code: F) -> (DropGuard, impl FnOnce() -> Result<(), BoxError> + use<F>)
where
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    let (runtime, span, end) = (runtime::Handle::current(), Span::current(), CancellationToken::new());
    let cut = end.clone().drop_guard();
    let run = move || {
        let code = async {
            select! {
                ended = code => ended,
                // Nobody asks any more how it ended.
                () = end.cancelled() => Ok(()),
            }
        };
        span.in_scope(|| runtime.block_on(code))
    };
    (cut, run)
}

/// What became of a task of an author's code.
pub(crate) fn judged(ended: Result<Result<(), BoxError>, JoinError>) -> Result<(), Failure> {
    match ended {
        Ok(result) => result.map_err(Failure::Error),
        Err(error) => Err(match error.try_into_panic() {
            Ok(panic) => Failure::Panic(message(&*panic)),
            // Only who is dropped himself drops it, or the runtime ends.
            Err(error) => Failure::Error(error.into()),
        }),
    }
}

fn message(panic: &(dyn Any + Send)) -> Box<str> {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message").into()
}

// === impl Failure ===

impl Failure {
    /// Whether it was cut, rather than that it failed by itself.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(self, Self::Overran { .. })
    }

    /// Whether it still runs and cannot be ended.
    pub(crate) fn is_stuck(&self) -> bool {
        matches!(self, Self::Overran { stuck: true, .. })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Stands for the error itself, which has no source but its own.
            Self::Error(error) => write!(f, "{error}"),
            Self::Panic(message) => write!(f, "panicked: {message}"),
            Self::Overran { had, stuck: false } => write!(f, "not done within {had:.1?}, given up"),
            Self::Overran { had, stuck: true } => {
                write!(f, "not done within {had:.1?}, given up, and it blocks its thread")
            }
        }
    }
}

impl error::Error for Failure {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Error(error) => error.source(),
            Self::Panic(_) | Self::Overran { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(
        threads: &Threads,
        millis: u64,
        code: impl Future<Output = Result<(), BoxError>> + Send + 'static,
    ) -> Failure {
        let over = async {
            sleep(Duration::from_millis(millis)).await;
            Instant::now()
        };
        Contained::spawn(threads, code).until(over).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_panic_is_an_error_with_its_message() {
        let threads = Threads::default();
        let failure = run(&threads, 30_000, async { panic!("no disk {}", 7) }).await;
        assert!(!threads.are_left().await);
        assert_eq!(failure.to_string(), "panicked: no disk 7");
        assert!(!failure.is_cut());
    }

    #[tokio::test]
    async fn aside_too_and_one_that_blocks_is_left_behind() {
        let soon = Instant::now() + Duration::from_secs(30);
        let failure = run_aside(async { panic!("no disk {}", 7) }, soon).await.unwrap_err();
        assert_eq!(failure.to_string(), "panicked: no disk 7");
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let blocks = async move {
            let _dropped = ended.recv();
            Ok(())
        };
        let failure = run_aside(blocks, Instant::now() + Duration::from_millis(200)).await.unwrap_err();
        assert!(failure.is_cut() && !failure.is_stuck(), "{failure}");
        // The runtime ends without it.
        std::mem::forget(end);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn code_that_blocks_its_thread_is_given_up_on_time_and_told_apart() {
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let threads = Threads::default();
        let blocks = async move {
            let _dropped = ended.recv();
            Ok(())
        };
        assert!(run(&threads, 200, blocks).await.is_stuck());
        assert!(threads.are_left().await);
        drop(end);
        let sleeps = run(&threads, 200, std::future::pending()).await;
        assert!(sleeps.is_cut() && !sleeps.is_stuck());
        assert!(!threads.are_left().await);
    }
}
