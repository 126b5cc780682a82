//! The cache outside the clone: one folder per server and version, filled whole or not at all.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

/// `${XDG_CACHE_HOME:-~/.cache}/meshwork/servers`.
pub(crate) fn servers() -> Result<PathBuf, String> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => {
            let home =
                env::var_os("HOME").ok_or("neither XDG_CACHE_HOME nor HOME is set: no place for a cache")?;
            Path::new(&home).join(".cache")
        }
    };
    Ok(base.join("meshwork").join("servers"))
}

/// One entry of the cache, for instance `etcd-3.6.16`.
pub(crate) struct Entry {
    dir: PathBuf,
}

impl Entry {
    pub(crate) fn new(name: &str, version: &str) -> Result<Self, String> {
        Ok(Self { dir: servers()?.join(format!("{name}-{version}")) })
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    pub(crate) fn has(&self, files: &[&str]) -> bool {
        files.iter().all(|file| self.path(file).exists())
    }

    /// A neighbour of the entry, named after it.
    fn beside(&self, what: &str) -> PathBuf {
        let mut path = self.dir.clone().into_os_string();
        path.push(".");
        path.push(what);
        path.into()
    }

    /// Fills the entry with what `make` leaves in an empty folder, under a lock, so that two tasks at once do it once.
    pub(crate) fn fill(
        &self,
        files: &[&str],
        make: impl FnOnce(&Path) -> Result<(), String>,
    ) -> Result<(), String> {
        let parent = self.dir.parent().expect("invariant: an entry lies below the cache");
        let said = |what: &str, path: &Path, e: std::io::Error| format!("{what} {}: {e}", path.display());
        fs::create_dir_all(parent).map_err(|e| said("creating", parent, e))?;
        let lock_path = self.beside("lock");
        let lock = File::create(&lock_path).map_err(|e| said("creating", &lock_path, e))?;
        lock.lock().map_err(|e| said("locking", &lock_path, e))?;
        if self.has(files) {
            return Ok(());
        }
        let new = self.beside("new");
        let _ = fs::remove_dir_all(&new);
        fs::create_dir_all(&new).map_err(|e| said("creating", &new, e))?;
        make(&new)?;
        if let Some(missing) = files.iter().find(|file| !new.join(file).exists()) {
            return Err(format!("{} was not made", new.join(missing).display()));
        }
        let _ = fs::remove_dir_all(&self.dir);
        fs::rename(&new, &self.dir).map_err(|e| said("moving into place", &self.dir, e))
    }
}

/// The first executable of that name on PATH.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}
