//! The end of a socket that takes nothing from its peer.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{self, Instant},
};

/// The longest time that a closed socket waits for the end of what its peer sends.
pub(crate) const LONGEST: Duration = Duration::from_secs(1);
/// The longest silence in it where no late request can be on its way.
pub(crate) const QUIET: Duration = Duration::from_millis(150);

/// The most bytes that it takes meanwhile: whoever sends more does not listen.
const MOST: usize = 32 << 20;

/// Closes `stream` without taking from the peer what it has not yet read: shuts the write side, then reads and
/// discards to the end, to a silence of `quiet`, for a second, or up to 32 MiB.
///
/// # Cancel safety
/// Dropping the future closes at once.
pub(crate) async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin, quiet: Duration) {
    let end = Instant::now() + LONGEST;
    // An error says that it is shut already; a goodbye in TLS may have to wait for room.
    drop(time::timeout_at(end, stream.shutdown()).await);
    let (mut waste, mut taken) = ([0; 4096], 0);
    loop {
        let until = end.min(Instant::now() + quiet);
        match time::timeout_at(until, stream.read(&mut waste)).await {
            Ok(Ok(read)) if read > 0 && taken < MOST && Instant::now() < end => taken += read,
            _ => return,
        }
    }
}
