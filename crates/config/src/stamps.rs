//! What files look like from outside: to notice that one has changed without reading it.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

/// What the files of a configuration looked like at some moment; equal when nothing has changed since.
///
/// A name that leads to another file counts as a change, so a ConfigMap of Kubernetes, whose links are
/// exchanged, is noticed like an edited file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

/// Device, inode, length, and the times of the last change of content and of the inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    length: u64,
    content: (i64, i64),
    inode: (i64, i64),
}

impl Stamps {
    pub(crate) fn of(paths: Vec<PathBuf>) -> Self {
        Self(paths.into_iter().map(|path| (path.clone(), fs::metadata(path).ok().map(Stamp::from))).collect())
    }

    /// The same files as they look now. Blocks on the file system.
    #[must_use]
    pub fn again(&self) -> Self {
        Self::of(self.0.iter().map(|(path, _)| path.clone()).collect())
    }

    /// Whether there is no file to look at: a configuration made without any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<Metadata> for Stamp {
    fn from(of: Metadata) -> Self {
        Self {
            file: (of.dev(), of.ino()),
            length: of.len(),
            content: (of.mtime(), of.mtime_nsec()),
            inode: (of.ctime(), of.ctime_nsec()),
        }
    }
}
