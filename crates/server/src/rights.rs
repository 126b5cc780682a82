//! Lines over a Unix socket, and descriptors that travel with them (`SCM_RIGHTS`).

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    cmsg_space,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};
use tokio::{io::Interest, net::UnixStream};

/// The most descriptors of one line.
pub(crate) const MOST: usize = 16;
/// The longest line, in bytes.
const LONGEST: usize = 4096;

/// One end of a talk in lines.
#[derive(Debug)]
pub(crate) struct Lines(UnixStream);

/// A line and what came with it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) text: String,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Lines {
    /// Talks only with processes of the same user, or of root.
    ///
    /// # Errors
    /// `PermissionDenied` when the other side is another user's.
    pub(crate) fn new(stream: UnixStream) -> io::Result<Self> {
        let (theirs, own) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
        if theirs != own && theirs != 0 {
            let text = format!("the other side runs as user {theirs}, we as {own}");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(Self(stream))
    }

    /// Sends a line, with up to [`MOST`] descriptors. A line is short enough to be sent at once.
    ///
    /// # Cancel safety
    /// A line is sent as a whole or not at all.
    pub(crate) async fn send(&self, text: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let line = format!("{text}\n");
        let sent = self.0.async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many sockets"));
            }
            let parts = [IoSlice::new(line.as_bytes())];
            Ok(sendmsg(self.0.as_fd(), &parts, &mut control, SendFlags::NOSIGNAL)?)
        });
        match sent.await? {
            sent if sent == line.len() => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::WriteZero, "the other side does not read")),
        }
    }

    /// The next line; `None` when the other side is gone.
    ///
    /// # Cancel safety
    /// Dropping the future loses what was read of a line: the talk is over then.
    pub(crate) async fn next(&self) -> io::Result<Option<Line>> {
        let (mut bytes, mut fds) = (Vec::new(), Vec::new());
        loop {
            let read = self.0.async_io(Interest::READABLE, || self.receive(&mut bytes, &mut fds)).await;
            match read {
                // Whoever ends with something unread resets.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
                Ok(0) => return Ok(None),
                Ok(_) if bytes.last() == Some(&b'\n') => break,
                Ok(_) if bytes.len() > LONGEST => return Err(invalid("a line without an end")),
                Ok(_) => {}
            }
        }
        bytes.pop();
        let text = String::from_utf8(bytes).map_err(|_not_text| invalid("a line that is no text"))?;
        Ok(Some(Line { text, fds }))
    }

    fn receive(&self, bytes: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MOST))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut chunk = [0; 1024];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message = recvmsg(self.0.as_fd(), &mut [IoSliceMut::new(&mut chunk)], &mut control, flags)?;
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = part {
                fds.extend(rights);
            }
        }
        if message.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MOST {
            return Err(invalid("sockets that do not fit"));
        }
        bytes.extend_from_slice(&chunk[..message.bytes]);
        Ok(message.bytes)
    }
}

pub(crate) fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
