//! Who holds a port, as Linux tells it.

use std::{fmt, fs, net::SocketAddr};

/// The process that holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Owner {
    /// Its process id.
    pub pid: u32,
    /// Its command, at most 120 bytes of it.
    pub command: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} (`{}`)", self.pid, self.command)
    }
}

/// Finds who listens where `addr` would. Reads `/proc`: blocking, and `None` where it tells nothing (another
/// user's process, another system).
pub(crate) fn find(addr: SocketAddr) -> Option<Owner> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| listening(&table, addr.port()).into_iter().map(link_of).collect::<Vec<_>>())
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find(|pid| holds(*pid, &inodes)).map(|pid| Owner { pid, command: command(pid) })
}

/// What a file descriptor of the socket with this inode links to.
fn link_of(inode: &str) -> String {
    format!("socket:[{inode}]")
}

/// The inodes of the sockets that listen on `port`, from the text of `/proc/net/tcp`.
fn listening(table: &str, port: u16) -> Vec<&str> {
    let line = |line: &'_ str| -> Option<(u16, bool)> {
        let mut columns = line.split_whitespace();
        let local = columns.nth(1)?.rsplit_once(':')?.1;
        let state = columns.nth(1)?;
        Some((u16::from_str_radix(local, 16).ok()?, state == "0A"))
    };
    table
        .lines()
        .skip(1)
        .filter(|text| line(text) == Some((port, true)))
        .filter_map(|text| text.split_whitespace().nth(9))
        .collect()
}

fn holds(pid: u32, inodes: &[String]) -> bool {
    let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str()))
}

fn command(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    line.trim().escape_debug().take(120).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_of_that_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100 0 0 10 0\n\
             1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 4712 1 0 20 4 30 10 -1\n\
             2: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4713 1 0 100 0 0 10 0\n";
        assert_eq!(listening(table, 8080), ["4711"]);
        assert_eq!(listening(table, 80), Vec::<&str>::new());
    }
}
