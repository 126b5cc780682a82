//! Gives out TCP ports, so that tests and processes that run side by side never get the same.
//!
//! Ports lie below 32768: above, the kernel takes source ports from, and a client that reconnects to a dead server on
//! such a port can end up connected to itself.

use std::{
    fs::{self, File, TryLockError},
    hash::{BuildHasher, RandomState},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
};

use crate::Error;

const FIRST: u16 = 10_000;
const COUNT: u16 = 22_000;

/// A port of `127.0.0.1` that is ours while this lives, also when nothing listens on it.
///
/// The claim is a file lock in the temp directory, which the kernel gives back however the process ends.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: File,
}

impl Port {
    /// Claims a port between 10 000 and 31 999 that nobody has claimed and nobody listens on.
    ///
    /// # Errors
    /// When the temp directory cannot be written, or no port is left.
    pub fn claim() -> Result<Self, Error> {
        let dir = claims()?;
        // A start at random makes it rare that a port is given out again while a peer still dials its last owner.
        let start = u16::try_from(RandomState::new().hash_one(0) % u64::from(COUNT))
            .expect("invariant: a remainder of a u16 is one");
        for step in 0..COUNT {
            let number = FIRST + (start + step) % COUNT;
            if let Some(port) = Self::try_claim(&dir, number)? {
                return Ok(port);
            }
        }
        Err(Error::new(format!("claiming a port: all of {FIRST}..{} are taken", FIRST + COUNT)))
    }

    fn try_claim(dir: &std::path::Path, number: u16) -> Result<Option<Self>, Error> {
        let path = dir.join(number.to_string());
        let said = |e: io::Error| Error::new(format!("claiming a port by {}", path.display())).with_source(e);
        let claim = File::options().create(true).append(true).open(&path).map_err(said)?;
        match claim.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(said(e)),
        }
        // Whoever does not take part in the claims shows by listening.
        let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok();
        Ok(is_free.then_some(Self { number, _claim: claim }))
    }

    /// Its number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Its address on `127.0.0.1`.
    pub fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }

    /// `http://127.0.0.1:<port>`.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }
}

fn claims() -> Result<PathBuf, Error> {
    let user = rustix::process::getuid().as_raw();
    let dir = std::env::temp_dir().join(format!("meshwork-ports-{user}"));
    fs::create_dir_all(&dir)
        .map_err(|e| Error::new(format!("creating {} for claims of ports", dir.display())).with_source(e))?;
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn never_gives_the_same_port_twice_at_a_time() {
        let ports: Vec<Port> = (0..200).map(|_| Port::claim().unwrap()).collect();
        let numbers: HashSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len());
        assert!(numbers.iter().all(|number| *number < 32_768));
    }

    #[test]
    fn gives_a_port_back_when_the_claim_is_dropped() {
        let dir = claims().unwrap();
        let port = Port::claim().unwrap();
        let number = port.number();
        assert!(Port::try_claim(&dir, number).unwrap().is_none());
        drop(port);
        // Somebody else may have taken it meanwhile; then it is at least not ours any more.
        let again = (0..50).any(|_| Port::try_claim(&dir, number).unwrap().is_some());
        assert!(again);
    }

    #[test]
    fn leaves_out_a_port_on_which_a_stranger_listens() {
        let port = Port::claim().unwrap();
        let number = port.number();
        let stranger = TcpListener::bind(port.addr()).unwrap();
        drop(port);
        assert!(Port::try_claim(&claims().unwrap(), number).unwrap().is_none());
        drop(stranger);
    }
}
