//! The owner's side of one record: made under a temporary name, held under a lock, rewritten in place,
//! touched and verified at every beat, removed while the lock is held.

use std::{
    fs::{File, FileTimes, TryLockError},
    hash::{BuildHasher, Hasher, RandomState},
    os::unix::fs::FileExt,
    thread,
    time::{Duration, Instant, SystemTime},
};

use meshwork_core::{Error, ErrorKind, Instance, Status, decode, encode};
use rustix::{
    fs::{AtFlags, Mode, OFlags},
    io::Errno,
};

use super::{
    look::{Look, look, read_whole},
    place::{FileId, Place, Shelf, errno, fault},
    process::Process,
    record,
};

/// What the names of records end in.
pub(super) const SUFFIX: &str = ".json";
/// What the names of records that are being made begin with.
pub(super) const UNFINISHED: &str = ".new-";
/// What the names of records that their owner is taking away begin with: it tells readers that they will
/// not come back.
pub(super) const LEFT: &str = ".left-";
/// The same for records that said `leaving`: readers that are slow to look learn it from the name.
pub(super) const MARKED: &str = ".leaving-";

/// Probing readers hold a lock for microseconds, so an owner may have to wait.
const LOCK_WITHIN: Duration = Duration::from_secs(1);
/// How often a record is made again because its unfinished file was taken away.
const ATTEMPTS: usize = 8;

/// One record that stands, held by this process.
#[derive(Debug)]
pub(super) struct Held {
    file: File,
    id: FileId,
    env: Box<str>,
    instance: Instance,
    content: Vec<u8>,
}

/// Announces `instance`; `before` is what this process holds for it already, and stays as it is.
pub(super) fn announce(
    place: &Place,
    env: &str,
    instance: &Instance,
    before: Option<&Held>,
) -> Result<Held, Error> {
    let content = content(instance)?;
    for _ in 0..ATTEMPTS {
        let shelf = place.shelf(env, &instance.service)?;
        refuse_conflict(&shelf, instance, before)?;
        let failed = |doing: &str| {
            let path = shelf.path.clone();
            let doing = format!("{doing} the record of `{}`", instance.id);
            move |cause: Errno| fault(&doing, cause, &path)
        };
        let (draft, file) = match Draft::new(&shelf, &instance.id) {
            Ok(made) => made,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(failed("making")(error)),
        };
        lock(&file).map_err(|e| failed("locking")(e))?;
        file.write_all_at(&content, 0).map_err(|e| failed("writing")(errno(&e)))?;
        let id = file.metadata().map(|found| FileId::of(&found)).map_err(|e| failed("reading")(errno(&e)))?;
        match draft.finish(&file_name(instance)) {
            Ok(()) => {}
            // A sweeper met it before it was locked, or the directory was removed.
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(failed("naming")(error)),
        }
        let (instance, env) = (instance.clone(), env.into());
        return Ok(Held { file, id, env, instance, content });
    }
    Err(Error::unavailable(format!(
        "announcing `{}`: something removes the files in `{}` as they are made",
        instance.id,
        place.root().display()
    )))
}

impl Held {
    /// Rewrites the record in place.
    pub(super) fn rewrite(&mut self, place: &Place, env: &str, instance: &Instance) -> Result<(), Error> {
        let is_other =
            *self.env != *env || self.instance.id != instance.id || self.instance.service != instance.service;
        if is_other {
            return Err(Error::invalid(format!("rewriting `{}` as another record", self.instance.id)));
        }
        let new = content(instance)?;
        let written = self.file.write_all_at(&new, 0).and_then(|()| self.file.set_len(new.len() as u64));
        if let Err(error) = written {
            // What stood there fits where it stood; a full disk cannot take it away.
            let restored = self.file.write_all_at(&self.content, 0);
            let restored = restored.and_then(|()| self.file.set_len(self.content.len() as u64));
            if let Err(error) = restored {
                tracing::warn!(instance = %instance.id, %error, "restoring the record failed");
            }
            let doing = format!("rewriting the record of `{}`", instance.id);
            return Err(fault(doing, errno(&error), place.root()));
        }
        self.instance = instance.clone();
        self.content = new;
        self.verify_name(place)
    }

    /// Touches the record and verifies that others find it as it was written.
    pub(super) fn beat(&self, place: &Place) -> Result<(), Error> {
        let doing = || format!("verifying the record of `{}`", self.instance.id);
        self.verify_name(place)?;
        let mut found = Vec::with_capacity(self.content.len());
        read_whole(&self.file, &mut found).map_err(|e| fault(doing(), e, place.root()))?;
        if found != self.content {
            let text = format!("the record of `{}` was changed by somebody else", self.instance.id);
            return Err(Error::unavailable(text));
        }
        // Both times: setting one alone would look like a change of content to every watcher.
        let now = SystemTime::now();
        let times = FileTimes::new().set_accessed(now).set_modified(now);
        self.file.set_times(times).map_err(|e| fault(doing(), errno(&e), place.root()))
    }

    /// Removes the record while its lock is held, then lets go of it.
    pub(super) fn remove(self, place: &Place) {
        let removed = place.shelf(&self.env, &self.instance.service).and_then(|shelf| {
            let how = if self.instance.status == Status::Leaving { MARKED } else { LEFT };
            let (name, left) = (file_name(&self.instance), format!("{how}{}", self.instance.id));
            let doing = || format!("removing the record of `{}`", self.instance.id);
            let removed = match shelf.find(&name) {
                Ok(Some(found)) if found == self.id => {
                    rustix::fs::renameat(&shelf.dir, &name, &shelf.dir, &left)
                        .and_then(|()| rustix::fs::unlinkat(&shelf.dir, &left, AtFlags::empty()))
                }
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            // A reader may have swept it away in between.
            removed.or_else(|e| if e == Errno::NOENT { Ok(()) } else { Err(fault(doing(), e, &shelf.path)) })
        });
        if let Err(error) = removed {
            // Nobody counts a record whose lock is free: only its file stays.
            tracing::warn!(instance = %self.instance.id, error = %meshwork_core::ErrorChain(&error),
                "left a dead file in the local registry");
        }
    }

    fn verify_name(&self, place: &Place) -> Result<(), Error> {
        let shelf = place.shelf(&self.env, &self.instance.service)?;
        let doing = || format!("verifying the record of `{}`", self.instance.id);
        match shelf.find(&file_name(&self.instance)).map_err(|e| fault(doing(), e, &shelf.path))? {
            Some(found) if found == self.id => Ok(()),
            Some(_) => Err(Error::unavailable(format!("the record of `{}` was replaced", self.instance.id))),
            None => Err(Error::unavailable(format!("the record of `{}` was removed", self.instance.id))),
        }
    }
}

/// A file under a temporary name, which goes unless it is finished.
struct Draft<'a> {
    shelf: &'a Shelf,
    name: Option<String>,
}

impl<'a> Draft<'a> {
    fn new(shelf: &'a Shelf, id: &meshwork_core::InstanceId) -> Result<(Self, File), Errno> {
        let chance = RandomState::new().build_hasher().finish();
        let name = format!("{UNFINISHED}{id}-{chance:016x}");
        let mode = Mode::from_raw_mode(if shelf.shared { 0o644 } else { 0o600 });
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(&shelf.dir, &name, flags, mode)?);
        let draft = Self { shelf, name: Some(name) };
        if shelf.shared {
            rustix::fs::fchmod(&file, mode)?;
        }
        Ok((draft, file))
    }

    fn finish(mut self, name: &str) -> Result<(), Errno> {
        let draft = self.name.as_deref().expect("invariant: a draft is named until it is finished");
        rustix::fs::renameat(&self.shelf.dir, draft, &self.shelf.dir, name)?;
        self.name = None;
        if self.shelf.stands() { Ok(()) } else { Err(Errno::NOENT) }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            // A sweeper removes what could not be removed here.
            let _ = rustix::fs::unlinkat(&self.shelf.dir, name, AtFlags::empty());
        }
    }
}

/// The name of an instance's record.
pub(super) fn file_name(instance: &Instance) -> String {
    format!("{}{SUFFIX}", instance.id)
}

fn content(instance: &Instance) -> Result<Vec<u8>, Error> {
    let json = encode(instance).map_err(|refusal| {
        Error::invalid(format!("writing the record of `{}`", instance.id)).with_source(refusal)
    })?;
    Ok(record::frame(&json))
}

/// Another living process under our id is a clone of ours: it must not be replaced.
fn refuse_conflict(shelf: &Shelf, instance: &Instance, before: Option<&Held>) -> Result<(), Error> {
    let mut buffer = Vec::new();
    let Look::Held { file, content, .. } = look(shelf, &file_name(instance), &mut buffer) else {
        return Ok(());
    };
    let is_own = before.is_some_and(|held| held.id == file)
        || content
            .as_ref()
            .is_ok_and(|framed| framed.writer == Process::own() && names(framed.json, instance));
    // What cannot be read was damaged: its owner, if it is not us, will find itself replaced.
    if is_own || content.is_err() {
        return Ok(());
    }
    let text = format!("another living process announces `{}` in `{}`", instance.id, shelf.path.display());
    Err(Error::new(ErrorKind::Conflict, text))
}

/// Whether a record is of this very instance: one process may hold several, each with its own registry.
fn names(json: &[u8], instance: &Instance) -> bool {
    decode(json)
        .is_ok_and(|found| found.endpoints == instance.endpoints && found.start_time == instance.start_time)
}

fn lock(file: &File) -> Result<(), Errno> {
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_WITHIN => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(TryLockError::WouldBlock) => return Err(Errno::TIMEDOUT),
            Err(TryLockError::Error(error)) => return Err(errno(&error)),
        }
    }
}
