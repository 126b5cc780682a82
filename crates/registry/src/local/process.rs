//! Which process wrote a record, and whether it still lives.

use std::{fs, io, os::unix::fs::MetadataExt, process, sync::OnceLock};

/// One process: its number, when it started, and the space its number counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    /// Its number.
    pub(super) pid: u32,
    /// When it started, in clock ticks since the system did; 0 = unknown.
    pub(super) started: u64,
    /// The number of its pid namespace; 0 = unknown.
    pub(super) space: u64,
}

/// What we know of another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It exists, running or frozen.
    Lives,
    /// It ended, or its number belongs to somebody else.
    Gone,
    /// It counts in another space, or the system does not tell.
    Unknown,
}

impl Process {
    /// This process.
    pub(super) fn own() -> Self {
        static OWN: OnceLock<Process> = OnceLock::new();
        *OWN.get_or_init(|| {
            let pid = process::id();
            let started = stat(pid).ok().flatten().map_or(0, |(_state, started)| started);
            let space = fs::metadata("/proc/self/ns/pid").map_or(0, |space| space.ino());
            Self { pid, started, space }
        })
    }

    /// Whether it still lives.
    pub(super) fn life(&self) -> Life {
        if self.space == 0 || self.started == 0 || self.space != Self::own().space {
            return Life::Unknown;
        }
        match stat(self.pid) {
            Ok(Some((b'Z' | b'X', _))) => Life::Gone,
            Ok(Some((_, started))) if started == self.started => Life::Lives,
            Ok(Some(_)) => Life::Gone,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Life::Gone,
            Ok(None) | Err(_) => Life::Unknown,
        }
    }
}

/// State and start of a process; `None` when the line is not as we know it.
fn stat(pid: u32) -> io::Result<Option<(u8, u64)>> {
    let line = fs::read(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything, also parentheses: what counts follows the last one.
    let after = line.iter().rposition(|b| *b == b')').map(|end| &line[end + 1..]);
    let Some(Ok(after)) = after.map(std::str::from_utf8) else { return Ok(None) };
    let mut fields = after.split_ascii_whitespace();
    let state = fields.next().and_then(|state| state.bytes().next());
    let started = fields.nth(18).and_then(|started| started.parse().ok());
    Ok(state.zip(started))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_lives_until_it_is_killed() {
        assert_eq!(Process::own().life(), Life::Lives);
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (_, started) = stat(child.id()).unwrap().unwrap();
        let it = Process { pid: child.id(), started, ..Process::own() };
        assert_eq!(it.life(), Life::Lives);
        assert_eq!(Process { started: started + 1, ..it }.life(), Life::Gone);
        assert_eq!(Process { space: it.space + 1, ..it }.life(), Life::Unknown);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(it.life(), Life::Gone);
    }
}
