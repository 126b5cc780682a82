//! How changes of directories are noticed: by inotify where the system has it, else only by looking.

use std::{
    io::Read,
    os::{fd::AsFd, unix::net::UnixStream},
    path::Path,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

/// One thing that was noticed.
#[derive(Debug)]
pub(super) enum Sight {
    /// A file in a watched directory changed.
    Touched {
        /// Which directory.
        watch: i32,
        /// Which file.
        name: String,
        /// Whether it was closed by one who had opened it for writing.
        closed: bool,
    },
    /// A watched directory is no longer there, or no longer watched.
    Lost {
        /// Which directory.
        watch: i32,
    },
    /// More happened than the system could note.
    Overflow,
}

/// The source of events of one backend.
#[derive(Debug)]
pub(super) struct Eyes {
    system: system::Watches,
}

impl Eyes {
    /// # Errors
    /// When the system has no events, or gives no more of them.
    pub(super) fn open() -> Result<Self, Errno> {
        Ok(Self { system: system::Watches::new()? })
    }

    /// Watches a directory.
    pub(super) fn watch(&self, dir: &Path) -> Result<i32, Errno> {
        self.system.add(dir)
    }

    /// Watches it no more.
    pub(super) fn forget(&self, watch: i32) {
        self.system.remove(watch);
    }

    /// What happened so far; never blocks.
    pub(super) fn read(&mut self, sights: &mut Vec<Sight>) -> Result<(), Errno> {
        self.system.read(sights)
    }
}

/// Waits until something happens, the bell rings, or `within` is over.
pub(super) fn wait(eyes: Option<&Eyes>, bell: &mut UnixStream, within: Duration) {
    let timeout = Timespec {
        tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: within.subsec_nanos().into(),
    };
    {
        let bell = PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN);
        let mut fds = match eyes.and_then(|eyes| eyes.system.fd()) {
            Some(eyes) => vec![bell, PollFd::from_borrowed_fd(eyes, PollFlags::IN)],
            None => vec![bell],
        };
        // Interrupted is as good as woken: the caller looks what there is.
        let _ = poll(&mut fds, Some(&timeout));
    }
    let mut rung = [0; 64];
    while bell.read(&mut rung).is_ok_and(|read| read == rung.len()) {}
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use std::{
        mem::MaybeUninit,
        os::fd::{AsFd, BorrowedFd, OwnedFd},
        path::Path,
    };

    use rustix::{
        fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
        io::Errno,
    };

    use super::Sight;

    #[derive(Debug)]
    pub(super) struct Watches {
        inotify: OwnedFd,
        buffer: Box<[MaybeUninit<u8>]>,
    }

    impl Watches {
        pub(super) fn new() -> Result<Self, Errno> {
            let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            Ok(Self { inotify, buffer: vec![MaybeUninit::uninit(); 64 * 1024].into() })
        }

        pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
            Some(self.inotify.as_fd())
        }

        pub(super) fn add(&self, dir: &Path) -> Result<i32, Errno> {
            // Heartbeats set both times of a file, which is an ATTRIB: they wake nobody.
            let flags = WatchFlags::CLOSE_WRITE
                | WatchFlags::MODIFY
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVED_FROM
                | WatchFlags::DELETE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF
                | WatchFlags::ONLYDIR
                | WatchFlags::DONT_FOLLOW;
            inotify::add_watch(&self.inotify, dir, flags)
        }

        pub(super) fn remove(&self, watch: i32) {
            // One that is gone already is as good.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }

        pub(super) fn read(&mut self, sights: &mut Vec<Sight>) -> Result<(), Errno> {
            let mut reader = Reader::new(&self.inotify, &mut self.buffer);
            loop {
                let event = match reader.next() {
                    Ok(event) => event,
                    Err(Errno::AGAIN) => return Ok(()),
                    Err(Errno::INTR) => continue,
                    Err(error) => return Err(error),
                };
                let (watch, what) = (event.wd(), event.events());
                let lost =
                    ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
                if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                    sights.push(Sight::Overflow);
                } else if what.intersects(lost) {
                    sights.push(Sight::Lost { watch });
                } else if let Some(Ok(name)) = event.file_name().map(|name| name.to_str()) {
                    let closed = what.contains(ReadFlags::CLOSE_WRITE);
                    sights.push(Sight::Touched { watch, name: name.to_owned(), closed });
                }
            }
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use std::{os::fd::BorrowedFd, path::Path};

    use rustix::io::Errno;

    use super::Sight;

    #[derive(Debug)]
    pub(super) enum Watches {}

    impl Watches {
        pub(super) fn new() -> Result<Self, Errno> {
            Err(Errno::NOSYS)
        }

        pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        pub(super) fn add(&self, _dir: &Path) -> Result<i32, Errno> {
            match *self {}
        }

        pub(super) fn remove(&self, _watch: i32) {
            match *self {}
        }

        pub(super) fn read(&mut self, _sights: &mut Vec<Sight>) -> Result<(), Errno> {
            match *self {}
        }
    }
}
