//! The directories of the embedded registry: made, opened and judged; what is wrong with them is said.
//!
//! `<dir>/<env>/<service>/` holds the records of one service. No step below `dir` follows a symbolic link.

use std::{
    fmt,
    fs::{self, DirBuilder, File, Metadata},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use meshwork_core::{Error, ErrorKind, ServiceName};
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags},
    io::Errno,
    process::geteuid,
};

use super::{
    config::{LocalConfig, check_env},
    file_system,
};

/// Where a local registry lives.
#[derive(Clone, Debug)]
pub(super) struct Place {
    root: PathBuf,
    shared: bool,
}

/// The open directory of one service.
#[derive(Debug)]
pub(super) struct Shelf {
    /// The directory.
    pub(super) dir: OwnedFd,
    /// Where it stands.
    pub(super) path: PathBuf,
    /// Whether files of other users are trusted.
    pub(super) shared: bool,
    file: FileId,
}

/// The directory of one service, known but not open: readers of many services keep no file open for each.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    /// Where it stands.
    pub(super) path: PathBuf,
    shared: bool,
    file: FileId,
}

/// One file, whatever its name: its device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

impl Place {
    pub(super) fn new(config: &LocalConfig) -> Self {
        Self { root: config.directory(), shared: config.shared }
    }

    /// The directory of all.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Opens the directory of a service, and makes what is absent.
    ///
    /// # Errors
    /// What stands in the way, and what to do about it.
    pub(super) fn shelf(&self, env: &str, service: &ServiceName) -> Result<Shelf, Error> {
        check_env(env)?;
        let root = self.open_root()?;
        let env_path = self.root.join(env);
        let env = self.enter(&root, env, &env_path)?;
        let path = env_path.join(service.as_str());
        let dir = self.enter(&env, service.as_str(), &path)?;
        let dir = File::from(dir);
        let found = dir.metadata().map_err(|e| fault(opening(&path), errno(&e), &path))?;
        Ok(Shelf { dir: dir.into(), path, shared: self.shared, file: FileId::of(&found) })
    }

    /// Opens the directory of an environment, which holds those of its services, and makes what is absent.
    ///
    /// # Errors
    /// As [`shelf`](Self::shelf).
    pub(super) fn env(&self, env: &str) -> Result<Shelf, Error> {
        check_env(env)?;
        let path = self.root.join(env);
        let dir = File::from(self.enter(&self.open_root()?, env, &path)?);
        let found = dir.metadata().map_err(|e| fault(opening(&path), errno(&e), &path))?;
        Ok(Shelf { dir: dir.into(), path, shared: self.shared, file: FileId::of(&found) })
    }

    fn open_root(&self) -> Result<OwnedFd, Error> {
        let root = match open_dir(CWD, &self.root) {
            Err(Errno::NOENT) => {
                self.make_root().map_err(|e| fault(making(&self.root), errno(&e), &self.root))?;
                open_dir(CWD, &self.root)
            }
            opened => opened,
        };
        let root = root.map_err(|e| refused_dir(&self.root, e))?;
        self.judge(&root, &self.root)?;
        if let Some(name) = file_system::network(&root) {
            let text = format!(
                "`{}` is on a network file system ({name}), where locks and events of other machines are \
                 not seen: set another `dir` of the local registry",
                self.root.display()
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        Ok(root)
    }

    fn make_root(&self) -> io::Result<()> {
        if let Some(parent) = self.root.parent() {
            DirBuilder::new().recursive(true).mode(if self.shared { 0o755 } else { 0o700 }).create(parent)?;
        }
        self.make(CWD, &self.root)?;
        Ok(())
    }

    /// Opens `name` inside of `outer`, or makes it.
    fn enter(&self, outer: &OwnedFd, name: &str, path: &Path) -> Result<OwnedFd, Error> {
        let name = Path::new(name);
        let dir = match open_dir(outer, name) {
            Err(Errno::NOENT) => {
                self.make(outer, name).map_err(|e| fault(making(path), e, path))?;
                open_dir(outer, name)
            }
            opened => opened,
        };
        let dir = dir.map_err(|e| refused_dir(path, e))?;
        self.judge(&dir, path)?;
        Ok(dir)
    }

    /// Makes one directory; one that somebody made meanwhile is as good.
    fn make(&self, outer: impl std::os::fd::AsFd, name: &Path) -> Result<(), Errno> {
        match rustix::fs::mkdirat(&outer, name, Mode::RWXU) {
            Ok(()) if self.shared => {
                // The mask of the process would take the bits away again.
                rustix::fs::chmodat(&outer, name, Mode::from_raw_mode(0o1777), AtFlags::empty())
            }
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Refuses a directory that another user could have filled.
    fn judge(&self, dir: &OwnedFd, path: &Path) -> Result<(), Error> {
        let stat = rustix::fs::fstat(dir).map_err(|e| fault(opening(path), e, path))?;
        let (shown, us) = (path.display(), geteuid().as_raw());
        if self.shared {
            return Ok(());
        }
        if stat.st_uid != us {
            let text = format!(
                "`{shown}` belongs to uid {}, not to uid {us} that we run as: set another `dir` of the local \
                 registry, or `shared = true` to trust other users",
                stat.st_uid
            );
            return Err(Error::new(ErrorKind::Denied, text));
        }
        if stat.st_mode & 0o022 != 0 {
            let text = format!(
                "`{shown}` may be written by other users: `chmod go-w {shown}`, or set `shared = true` in the \
                 local registry to trust them"
            );
            return Err(Error::new(ErrorKind::Denied, text));
        }
        Ok(())
    }
}

impl Ground {
    /// Opens it, if the path still leads to it.
    pub(super) fn open(&self) -> Option<Shelf> {
        let dir = File::from(open_dir(CWD, &self.path).ok()?);
        let is_it = FileId::of(&dir.metadata().ok()?) == self.file;
        let Self { path, shared, file } = self.clone();
        is_it.then(|| Shelf { dir: dir.into(), path, shared, file })
    }
}

impl Shelf {
    /// What is needed to open it again.
    pub(super) fn ground(&self) -> Ground {
        Ground { path: self.path.clone(), shared: self.shared, file: self.file }
    }

    /// Whether the path still leads to this directory.
    pub(super) fn stands(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| FileId::of(&found) == self.file)
    }

    /// What a name in it leads to; `None` when there is nothing.
    pub(super) fn find(&self, name: &str) -> Result<Option<FileId>, Errno> {
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            #[expect(clippy::unnecessary_cast, reason = "the types of these fields differ between systems")]
            Ok(found) => Ok(Some(FileId(found.st_dev as u64, found.st_ino as u64))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All names in it.
    pub(super) fn names(&self) -> Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.dir)? {
            // What is not UTF-8 is no record.
            if let Ok(name) = entry?.file_name().to_str() {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Removes the file that `name` leads to, if it is `file`; says whether it did.
    pub(super) fn remove(&self, name: &str, file: FileId) -> Result<bool, Errno> {
        if self.find(name)? != Some(file) {
            return Ok(false);
        }
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl FileId {
    pub(super) fn of(found: &Metadata) -> Self {
        Self(found.dev(), found.ino())
    }
}

/// The error of file work: its kind, and what to do about it.
pub(super) fn fault(doing: impl fmt::Display, cause: Errno, place: &Path) -> Error {
    let (shown, uid) = (place.display(), geteuid().as_raw());
    let (kind, advice) = match cause {
        Errno::NOSPC | Errno::DQUOT => (
            ErrorKind::Unavailable,
            format!(
                ": the disk of `{shown}` is full, free space there or set another `dir` of the local registry"
            ),
        ),
        Errno::ACCESS | Errno::PERM | Errno::ROFS => (
            ErrorKind::Denied,
            format!(
                ": make `{shown}` accessible and writable for uid {uid}, or set another `dir` of the local registry"
            ),
        ),
        Errno::OPNOTSUPP | Errno::NOLCK | Errno::NOSYS => (
            ErrorKind::Unsupported,
            format!(": the file system of `{shown}` cannot do that, set another `dir` of the local registry"),
        ),
        Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => (
            ErrorKind::Invalid,
            format!(": `{shown}` cannot be a directory of ours, set another `dir` of the local registry"),
        ),
        Errno::MFILE | Errno::NFILE => {
            (ErrorKind::Unavailable, ": no file may be opened any more, raise `ulimit -n`".to_owned())
        }
        Errno::STALE | Errno::NOENT => {
            (ErrorKind::Unavailable, format!(": `{shown}` was removed meanwhile, it will be made again"))
        }
        _ => (ErrorKind::Unavailable, String::new()),
    };
    Error::new(kind, format!("{doing}{advice}")).with_source(io::Error::from(cause))
}

/// The system's number of an error; one of our own making counts as `EIO`.
pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn open_dir(outer: impl std::os::fd::AsFd, name: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(outer, name, flags, Mode::empty())
}

fn opening(path: &Path) -> String {
    format!("opening `{}`", path.display())
}

fn making(path: &Path) -> String {
    format!("making the directory `{}`", path.display())
}

/// What stands where a directory should be.
fn refused_dir(path: &Path, cause: Errno) -> Error {
    if !matches!(cause, Errno::NOTDIR | Errno::LOOP) {
        return fault(opening(path), cause, path);
    }
    let what = match fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => "a symbolic link, which could lead anywhere",
        Ok(found) if found.is_file() => "a file",
        _ => "no directory, or stands below something that is none",
    };
    let shown = path.display();
    let text = format!(
        "`{shown}` is {what}: remove it, and it will be made as a directory, or set another `dir` of the \
         local registry"
    );
    Error::invalid(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do() {
        let kind = |cause| {
            let error = fault("announcing `a-1`", cause, Path::new("/x"));
            assert!(error.to_string().starts_with("announcing `a-1`"));
            (error.kind(), error.to_string())
        };
        assert!(matches!(kind(Errno::NOSPC), (ErrorKind::Unavailable, text) if text.contains("full")));
        assert!(matches!(kind(Errno::DQUOT), (ErrorKind::Unavailable, text) if text.contains("full")));
        assert!(matches!(kind(Errno::ACCESS), (ErrorKind::Denied, text) if text.contains("writable")));
        assert!(matches!(kind(Errno::ROFS), (ErrorKind::Denied, text) if text.contains("`dir`")));
        assert!(matches!(kind(Errno::NOLCK), (ErrorKind::Unsupported, _)));
        assert!(matches!(kind(Errno::STALE), (ErrorKind::Unavailable, text) if text.contains("made again")));
    }
}
