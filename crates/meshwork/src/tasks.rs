//! Work beside the calls: tasks that run as long as the app serves, and runs at set times.
//!
//! What fails or panics in them is counted and told by name, and never reaches the app, unless it cannot do without.

use std::{
    fmt,
    panic::Location,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use meshwork_core::{BoxError, BoxFuture, Error, ErrorChain};
use meshwork_registry::Dice;
use tokio::{
    select,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    Handle, Outcome,
    contain::{Failure, Threads, judged},
    schedule::Schedule,
};

/// The exit code of an app that stopped because a task failed that it cannot do without.
const TASK_FAILED: u8 = 8;
/// A run this long is no failing start any more: the next pause is the first again.
const STEADY: Duration = Duration::from_secs(60);

type Code = Arc<dyn Fn(Handle) -> BoxFuture<'static, Result<(), BoxError>> + Send + Sync>;

/// When a task is begun anew after it ended, in Kubernetes' words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Restart {
    /// Whenever it ends.
    Always,
    /// When it returned an error or panicked.
    #[default]
    OnFailure,
    /// Not at all.
    Never,
}

/// How a task is kept running; see [`App::task_with`](crate::App::task_with).
#[derive(Clone, Debug)]
#[must_use]
pub struct TaskOptions {
    restart: Restart,
    first_pause: Duration,
    longest_pause: Duration,
    stop_timeout: Option<Duration>,
    required: bool,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self {
            restart: Restart::default(),
            first_pause: Duration::from_millis(200),
            longest_pause: Duration::from_secs(30),
            stop_timeout: None,
            required: false,
        }
    }
}

impl TaskOptions {
    /// When it is begun anew. Default [`Restart::OnFailure`].
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// The pause before it is begun anew: `first`, doubling to `longest`, less up to a half by chance; `first` again after a
    /// run of 60 s. Default 200 ms and 30 s.
    pub fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        (self.first_pause, self.longest_pause) = (first, longest.max(first));
        self
    }

    /// How long it may go on after the drain has begun, then it is cut and named. Default: as long as the calls in flight.
    pub fn stop_timeout(mut self, limit: Duration) -> Self {
        self.stop_timeout = Some(limit);
        self
    }

    /// The app cannot do without it: when it fails and is not begun anew, the app stops with exit code 8.
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskState {
    /// The app does not serve yet, or a schedule waits for its next time.
    Waiting,
    /// It runs.
    Running,
    /// It failed and will be begun anew after a pause.
    Pausing,
    /// It has ended and will not be begun anew.
    Ended,
}

/// How a task or a schedule stands; see [`Handle::tasks`](crate::Handle::tasks).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskStatus {
    /// Its name.
    pub name: Arc<str>,
    /// What it is doing.
    pub state: TaskState,
    /// How often it was begun.
    pub starts: u64,
    /// How often it returned an error or panicked.
    pub failures: u64,
    /// How often it panicked.
    pub panics: u64,
    /// How many times of a schedule passed without a run: the run before was not over, or the process did not run.
    pub missed: u64,
    /// What it met last when it failed.
    pub last_failure: Option<Arc<str>>,
}

/// The status of one, shared with whoever asks.
#[derive(Clone)]
struct Record(Arc<Mutex<TaskStatus>>);

/// One that was declared.
struct Declared {
    name: Arc<str>,
    code: Code,
    kind: Kind,
    record: Record,
}

enum Kind {
    Task(TaskOptions),
    Schedule(Schedule, Box<str>),
}

/// Those that an author declared.
#[derive(Default)]
pub(crate) struct Tasks(Vec<Declared>);

/// The statuses of all, for handles.
#[derive(Clone, Default)]
pub(crate) struct Statuses(Arc<Mutex<Vec<Record>>>);

/// Those that run.
pub(crate) struct RunningTasks(Vec<RunningTask>);

struct RunningTask {
    name: Arc<str>,
    limit: Option<Duration>,
    threads: Arc<Threads>,
    task: JoinHandle<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Tasks ===

impl Tasks {
    pub(crate) fn task<F, Fut>(&mut self, all: &Statuses, name: &str, options: TaskOptions, code: F)
    where
        F: Fn(Handle) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.declare(all, name, Kind::Task(options), code);
    }

    pub(crate) fn schedule<F, Fut>(
        &mut self,
        all: &Statuses,
        name: &str,
        at: &Location<'_>,
        schedule: Schedule,
        code: F,
    ) where
        F: Fn(Handle) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        let place = format!("{}:{}", at.file(), at.line()).into();
        self.declare(all, name, Kind::Schedule(schedule, place), code);
    }

    fn declare<F, Fut>(&mut self, all: &Statuses, name: &str, kind: Kind, code: F)
    where
        F: Fn(Handle) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        let code = Arc::new(code);
        let code: Code = Arc::new(move |handle| {
            let code = Arc::clone(&code);
            // The call itself is inside, for it may panic too.
            Box::pin(async move { code(handle).await.into_result() })
        });
        let record = Record::new(name);
        locked(&all.0).push(record.clone());
        self.0.push(Declared { name: name.into(), code, kind, record });
    }

    /// Looks at what was declared.
    ///
    /// # Errors
    /// `Invalid`: a name that is empty or given twice, a schedule that cannot be read or never comes.
    pub(crate) fn judge(&self) -> Result<(), Error> {
        for (at, Declared { name, kind, .. }) in self.0.iter().enumerate() {
            if name.is_empty() {
                return Err(Error::invalid("a task has an empty name"));
            }
            if self.0[..at].iter().any(|other| other.name == *name) {
                return Err(Error::invalid(format!("two tasks are named `{name}`")));
            }
            if let Kind::Schedule(schedule, place) = kind {
                schedule
                    .turns()
                    .map_err(|why| Error::invalid(format!("schedule `{name}` ({place}): {why}")))?;
            }
        }
        Ok(())
    }

    /// Begins all of them.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn spawn(self, handle: &Handle) -> RunningTasks {
        let running = self.0.into_iter().map(|Declared { name, code, kind, record }| {
            let (handle, threads) = (handle.clone(), Arc::<Threads>::default());
            let counted = Arc::clone(&threads);
            // Counted while it runs: a run that blocks its thread outlives the task that is cut.
            let code: Code = Arc::new(move |handle| Box::pin(counted.counting(code(handle))));
            let (limit, task) = match kind {
                Kind::Task(options) => {
                    let limit = options.stop_timeout;
                    (limit, tokio::spawn(keep(Arc::clone(&name), options, code, record, handle)))
                }
                Kind::Schedule(schedule, _) => {
                    let runs = run_at_times(Arc::clone(&name), schedule, code, record, handle);
                    (None, tokio::spawn(runs))
                }
            };
            RunningTask { name, limit, threads, task }
        });
        RunningTasks(running.collect())
    }
}

/// Runs a task, and again as its options say, until the app stops.
async fn keep(name: Arc<str>, options: TaskOptions, code: Code, record: Record, handle: Handle) {
    let (stopping, mut dice, mut failures) = (handle.stopping(), Dice::new(None), 0);
    loop {
        let began = Instant::now();
        let outcome = once(&name, &code, &record, &handle).await;
        if stopping.is_cancelled() {
            return record.set(TaskState::Ended);
        }
        let again = match (&outcome, options.restart) {
            (_, Restart::Never) | (Ok(()), Restart::OnFailure) => false,
            (_, Restart::Always) | (Err(_), Restart::OnFailure) => true,
        };
        if !again {
            record.set(TaskState::Ended);
            if let (Err(failure), true) = (outcome, options.required) {
                let error = ErrorChain(&failure);
                handle.fail(&format!("failed task `{name}`: {error}"), TASK_FAILED);
            }
            return;
        }
        failures = if began.elapsed() >= STEADY { 0 } else { failures };
        let whole = options.first_pause.saturating_mul(1 << failures.min(20)).min(options.longest_pause);
        let pause = whole / 2 + dice.within(whole / 2);
        failures += 1;
        record.set(TaskState::Pausing);
        select! {
            () = sleep(pause) => {}
            () = stopping.cancelled() => return record.set(TaskState::Ended),
        }
    }
}

/// One run on a task of its own, so that a panic ends there. Dropping the future cuts it.
async fn once(name: &str, code: &Code, record: &Record, handle: &Handle) -> Result<(), Failure> {
    record.begins();
    let mut run = JoinSet::new();
    run.spawn(code(handle.clone()));
    let outcome = run.join_next().await.map_or(Ok(()), judged);
    record.ended(name, &outcome);
    outcome
}

/// Begins a run at each time of a schedule until the app stops; then those under way may finish.
async fn run_at_times(name: Arc<str>, schedule: Schedule, code: Code, record: Record, handle: Handle) {
    let Ok(mut turns) = schedule.turns() else { return };
    let stopping = handle.stopping();
    let mut runs: JoinSet<Result<(), BoxError>> = JoinSet::new();
    loop {
        let is_free = runs.len() < schedule.at_once();
        select! {
            // A run that is due when it is to stop does not begin.
            biased;
            () = stopping.cancelled() => break,
            Some(ended) = runs.join_next(), if !runs.is_empty() => {
                record.ended(&name, &judged(ended));
            }
            turn = turns.next(is_free) => {
                record.missed(turn.missed);
                if turn.is_run {
                    record.begins();
                    runs.spawn(code(handle.clone()));
                }
            }
        }
        if runs.is_empty() {
            record.set(TaskState::Waiting);
        }
    }
    while let Some(ended) = runs.join_next().await {
        record.ended(&name, &judged(ended));
    }
    record.set(TaskState::Ended);
}

// === impl RunningTasks ===

impl RunningTasks {
    /// Waits until all have ended; at `deadline`, or when its own time is over, one is cut. Names what was cut and, at the
    /// last, whether one blocks its thread.
    ///
    /// # Cancel safety
    /// Dropping the future cuts all of them.
    pub(crate) async fn end(self, deadline: Instant) -> Vec<(String, Failure)> {
        let began = Instant::now();
        let ending = self.0.into_iter().map(|RunningTask { name, limit, threads, mut task }| async move {
            let _cut = AbortOnDrop(task.abort_handle());
            let until = limit.map_or(deadline, |limit| deadline.min(began + limit));
            if timeout_at(until, &mut task).await.is_ok() {
                return None;
            }
            task.abort();
            let stuck = threads.are_left().await;
            let had = until.saturating_duration_since(began);
            Some((format!("task `{name}`"), Failure::Overran { had, stuck }))
        });
        join_all(ending).await.into_iter().flatten().collect()
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Record ===

impl Record {
    fn new(name: &str) -> Self {
        Self(Arc::new(Mutex::new(TaskStatus {
            name: name.into(),
            state: TaskState::Waiting,
            starts: 0,
            failures: 0,
            panics: 0,
            missed: 0,
            last_failure: None,
        })))
    }

    fn begins(&self) {
        let mut status = locked(&self.0);
        status.starts += 1;
        status.state = TaskState::Running;
    }

    fn set(&self, state: TaskState) {
        locked(&self.0).state = state;
    }

    fn missed(&self, times: u64) {
        locked(&self.0).missed += times;
    }

    fn ended(&self, name: &str, outcome: &Result<(), Failure>) {
        let Err(failure) = outcome else { return };
        let error = ErrorChain(failure).to_string();
        tracing::warn!(task = name, error, "task failed");
        let mut status = locked(&self.0);
        status.failures += 1;
        status.panics += u64::from(matches!(failure, Failure::Panic(_)));
        status.last_failure = Some(error.into());
    }
}

impl Statuses {
    pub(crate) fn all(&self) -> Vec<TaskStatus> {
        locked(&self.0).iter().map(|record| locked(&record.0).clone()).collect()
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Pausing => "pausing",
            Self::Ended => "ended",
        })
    }
}
