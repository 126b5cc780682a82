//! What a process still holds when it should hold nothing: descriptors, sockets, tasks.

use std::fs;

use tokio::runtime::Handle;

/// What this process and its runtime hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Residue {
    /// Open descriptors; `None` where the system does not tell.
    pub descriptors: Option<usize>,
    /// Tasks that have not ended.
    pub tasks: usize,
}

impl Residue {
    /// As it is now.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn now() -> Self {
        let descriptors = fs::read_dir("/proc/self/fd").ok().map(Iterator::count);
        Self { descriptors, tasks: Handle::current().metrics().num_alive_tasks() }
    }

    /// Whether this is no more than `before`.
    pub fn is_within(self, before: Self) -> bool {
        self.tasks <= before.tasks && self.descriptors <= before.descriptors
    }
}

/// How many sockets another process holds; `None` where the system does not tell.
pub fn sockets(pid: u32) -> Option<usize> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let is_socket = |to: &std::path::PathBuf| to.to_string_lossy().starts_with("socket:");
    Some(all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).filter(is_socket).count())
}

/// Memory of a process, in KiB; `None` where the system does not tell.
pub fn resident(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}
