//! What another process uses, as the kernel tells it.

use std::{collections::HashMap, fs, path::PathBuf, time::Duration};

use meshwork_core::BoxError;

/// The resident set, KiB.
pub(super) fn resident(pid: u32) -> Result<u64, BoxError> {
    field(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS:")
}

/// Processor time of all its threads so far, user and system together; not of those that have ended.
pub(super) fn cpu(pid: u32) -> Result<Duration, BoxError> {
    let mut all = Duration::ZERO;
    for (_, dir) in threads(pid)? {
        all += cpu_of(&fs::read_to_string(dir.join("schedstat"))?)?;
    }
    Ok(all)
}

/// What all its threads have done since the first look. Look often: what a thread does after the last look before
/// its end is not seen.
pub(super) struct Doings {
    pid: u32,
    seen: HashMap<u32, Doing>,
    sum: Doing,
}

/// Context switches, voluntary or not, and processor time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Doing {
    pub(super) switches: u64,
    pub(super) cpu: Duration,
}

impl Doings {
    pub(super) fn new(pid: u32) -> Result<Self, BoxError> {
        let mut doings = Self { pid, seen: HashMap::new(), sum: Doing::default() };
        doings.look()?;
        doings.sum = Doing::default();
        Ok(doings)
    }

    /// Adds what was done since the last look.
    pub(super) fn look(&mut self) -> Result<Doing, BoxError> {
        for (tid, dir) in threads(self.pid)? {
            // It may end while we look.
            let Ok(status) = fs::read_to_string(dir.join("status")) else { continue };
            let Ok(schedule) = fs::read_to_string(dir.join("schedstat")) else { continue };
            let switches =
                field(&status, "voluntary_ctxt_switches:")? + field(&status, "nonvoluntary_ctxt_switches:")?;
            let now = Doing { switches, cpu: cpu_of(&schedule)? };
            let before = self.seen.insert(tid, now).unwrap_or_default();
            self.sum.switches += now.switches - before.switches;
            self.sum.cpu += now.cpu - before.cpu;
        }
        Ok(self.sum)
    }
}

fn threads(pid: u32) -> Result<Vec<(u32, PathBuf)>, BoxError> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path();
        let tid = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        threads.push((tid.ok_or("a thread without a number")?, path));
    }
    Ok(threads)
}

fn field(text: &str, name: &str) -> Result<u64, BoxError> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name}"))?;
    Ok(line.split_whitespace().next().ok_or_else(|| format!("{name} says nothing"))?.parse()?)
}

/// The first figure of `schedstat`: nanoseconds on a processor.
fn cpu_of(schedstat: &str) -> Result<Duration, BoxError> {
    let nanos = schedstat.split_whitespace().next().ok_or("an empty schedstat")?;
    Ok(Duration::from_nanos(nanos.parse()?))
}
