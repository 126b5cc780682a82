//! One look at a record's file: is it there, does its owner live, what does it say.
//!
//! An owner holds its file open for writing under an exclusive lock, which the kernel releases at its
//! death. Looking opens the file for reading only, since closing one opened for writing would wake every
//! watcher, and tries a shared lock: taken = dead, refused = alive.

use std::{
    fs::{File, TryLockError},
    io::{Read, Seek},
    os::unix::fs::MetadataExt,
};

use meshwork_core::{Refusal, RefusalKind};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::geteuid,
};

use super::{
    place::{FileId, Shelf, errno},
    record::{self, Flaw, Framed, MAX_FILE_BYTES},
};

/// How often a file that is replaced while we look is looked at anew.
const ATTEMPTS: usize = 4;

/// What a look found.
#[derive(Debug)]
pub(super) enum Look<'a> {
    /// No file has that name.
    Gone,
    /// Nobody holds the file.
    Dead {
        /// Whether it is a file of a local registry, which may be removed.
        ours: bool,
    },
    /// The file is not to be trusted, or not to be read.
    Refused(Refusal),
    /// The look itself failed; nothing is known.
    Blind(Errno),
    /// Somebody holds it.
    Held {
        /// Which file.
        file: FileId,
        /// Its heartbeat: seconds and nanoseconds, of which only the change counts.
        beat: (i64, i64),
        /// What it says.
        content: Result<Framed<'a>, Flaw>,
    },
}

/// Looks at `name`; `buffer` takes its content.
pub(super) fn look<'a>(shelf: &Shelf, name: &str, buffer: &'a mut Vec<u8>) -> Look<'a> {
    for _ in 0..ATTEMPTS {
        match glance(shelf, name, buffer) {
            // Opened just before its owner removed or replaced it: that file is dead, the record need not be.
            Glance::Dead(file) if shelf.find(name) != Ok(Some(file)) => {}
            Glance::Dead(_) => return Look::Dead { ours: record::is_ours(buffer) },
            Glance::Held { file, beat } => return Look::Held { file, beat, content: record::parse(buffer) },
            Glance::Other(look) => return look,
        }
    }
    Look::Blind(Errno::AGAIN)
}

/// One look, before anything is made of it.
enum Glance {
    Dead(FileId),
    Held { file: FileId, beat: (i64, i64) },
    Other(Look<'static>),
}

fn glance(shelf: &Shelf, name: &str, buffer: &mut Vec<u8>) -> Glance {
    // Non-blocking, so that a planted pipe cannot hold us.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut file = match rustix::fs::openat(&shelf.dir, name, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Glance::Other(Look::Gone),
        Err(Errno::LOOP) => return misplaced("it is a symbolic link"),
        Err(Errno::NXIO | Errno::NODEV) => return misplaced("it is no regular file"),
        Err(Errno::ACCESS | Errno::PERM) => {
            let text = format!("it may not be read by uid {}", geteuid().as_raw());
            return Glance::Other(Look::Refused(Refusal::new(RefusalKind::Owner, text)));
        }
        Err(error) => return Glance::Other(Look::Blind(error)),
    };
    let found = match file.metadata() {
        Ok(found) => found,
        Err(error) => return Glance::Other(Look::Blind(errno(&error))),
    };
    if !found.is_file() {
        return misplaced("it is no regular file");
    }
    let us = geteuid().as_raw();
    if found.uid() != us && !shelf.shared {
        let text = format!("it belongs to uid {}, and only uid {us} is trusted", found.uid());
        return Glance::Other(Look::Refused(Refusal::new(RefusalKind::Owner, text)));
    }
    let is_dead = match file.try_lock_shared() {
        Ok(()) => true,
        Err(TryLockError::WouldBlock) => false,
        Err(TryLockError::Error(error)) => return Glance::Other(Look::Blind(errno(&error))),
    };
    if is_dead && let Err(error) = file.unlock() {
        return Glance::Other(Look::Blind(errno(&error)));
    }
    buffer.clear();
    let limit = if is_dead { 64 } else { MAX_FILE_BYTES as u64 + 1 };
    if let Err(error) = file.by_ref().take(limit).read_to_end(buffer) {
        return Glance::Other(Look::Blind(errno(&error)));
    }
    let file = FileId::of(&found);
    if is_dead {
        Glance::Dead(file)
    } else {
        Glance::Held { file, beat: (found.mtime(), found.mtime_nsec()) }
    }
}

/// Removes a dead file: whoever holds its lock and still finds it under its name may. Says whether it did.
pub(super) fn bury(shelf: &Shelf, name: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::openat(&shelf.dir, name, flags, Mode::empty()) else { return false };
    let file = File::from(file);
    let Ok(found) = file.metadata() else { return false };
    let is_fit = found.is_file() && (shelf.shared || found.uid() == geteuid().as_raw());
    is_fit && file.try_lock().is_ok() && shelf.remove(name, FileId::of(&found)).unwrap_or(false)
}

/// Reads all of an open file from its start.
pub(super) fn read_whole(mut file: &File, buffer: &mut Vec<u8>) -> Result<(), Errno> {
    buffer.clear();
    file.rewind().map_err(|e| errno(&e))?;
    file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(buffer).map(drop).map_err(|e| errno(&e))
}

fn misplaced(detail: &str) -> Glance {
    Glance::Other(Look::Refused(Refusal::new(RefusalKind::Misplaced, detail)))
}
