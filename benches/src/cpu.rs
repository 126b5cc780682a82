//! Processor time: what a neighbour on the machine disturbs least.

use std::time::Duration;

use rustix::{
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
    time::{ClockId, clock_gettime},
};

/// What this thread has used so far.
pub(crate) fn of_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// What all threads of this process have used so far, user and system together.
pub(crate) fn of_process() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Which processor a process of an experiment runs on, where there are several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// Those that are measured, one at a time.
    Client,
    /// The one that answers.
    Server,
}

impl Seat {
    /// Keeps this thread, and those that it starts from now on, on one processor: a process that is moved about
    /// pays for cold caches. Nothing happens where there is only one, or the system forbids it.
    pub(crate) fn take(self) {
        let Ok(allowed) = sched_getaffinity(None) else { return };
        let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let (first, last) = (usable.next(), usable.next_back());
        let chosen = match self {
            Self::Client => last,
            Self::Server => first,
        };
        if let (Some(chosen), Some(_)) = (chosen, last) {
            let mut one = CpuSet::new();
            one.set(chosen);
            let _stays_free = sched_setaffinity(None, &one);
        }
    }
}
