//! Provides protoc: the one on PATH when it can do the work, else the one that a crate carries, copied into the cache.
//! Builds find it through `.cargo/protoc`, so that the task and a plain `cargo test` share one build.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::{self, Entry},
    run, workspace,
};

const WRAPPER: &str = include_str!("../servers/protoc/Cargo.toml");
const FILES: [&str; 2] = ["bin/protoc", "include/google/protobuf/descriptor.proto"];

/// Makes sure that builds find a protoc; says which.
pub(crate) fn provide() -> Result<String, String> {
    if let Some(own) = std::env::var_os("PROTOC").map(PathBuf::from)
        && !own.ends_with(".cargo/protoc")
    {
        return Ok(format!("PROTOC={}", own.display()));
    }
    let entry = Entry::new("protoc", version())?;
    if entry.has(&FILES) {
        return Ok(entry.path(FILES[0]).display().to_string());
    }
    if let Some(found) = cache::on_path("protoc")
        && is_fit(&found)
    {
        return Ok(found.display().to_string());
    }
    run::say(
        "fetching protoc (a few seconds, once): the etcd client needs it to build, and PATH has no fit one",
    );
    entry.fill(&FILES, fetch).map_err(|e| {
        format!("{e}; install protoc 3.15 or newer with its standard .proto files, or set PROTOC to one")
    })?;
    Ok(entry.path(FILES[0]).display().to_string())
}

fn version() -> &'static str {
    WRAPPER
        .lines()
        .find_map(|line| line.strip_prefix("protoc-bin-vendored = \"=")?.strip_suffix('"'))
        .expect("invariant: the wrapper pins protoc-bin-vendored")
}

/// Debian's protoc comes without the standard files unless another package is installed: only a try shows it.
fn is_fit(protoc: &Path) -> bool {
    let dir = std::env::temp_dir().join(format!("meshwork-protoc-{}", std::process::id()));
    let proto = "syntax = \"proto3\";\nimport \"google/protobuf/descriptor.proto\";\nmessage A { optional int32 b = 1; }\n";
    let tried = fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join("a.proto"), proto)).is_ok()
        && Command::new(protoc)
            .arg("-I")
            .arg(&dir)
            .arg(format!("--descriptor_set_out={}", dir.join("out").display()))
            .arg("a.proto")
            .output()
            .is_ok_and(|out| out.status.success());
    let _ = fs::remove_dir_all(&dir);
    tried
}

fn fetch(to: &Path) -> Result<(), String> {
    let wrapper = workspace::root().join("crates/xtask/servers/protoc/Cargo.toml");
    let mut command = workspace::cargo(&["run", "--quiet", "--locked", "--manifest-path"]);
    command.arg(&wrapper).env("CARGO_TARGET_DIR", to.join("target"));
    let printed = run::output(&mut command, "fetching the crate protoc-bin-vendored")?;
    let mut lines = printed.lines();
    let (Some(binary), Some(include)) = (lines.next(), lines.next()) else {
        return Err("fetching protoc: it printed no path".to_owned());
    };
    let copied = fs::create_dir_all(to.join("bin"))
        .and_then(|()| fs::copy(binary, to.join(FILES[0])).map(drop))
        .and_then(|()| copy_tree(Path::new(include), &to.join("include")));
    copied.map_err(|e| format!("copying protoc to {}: {e}", to.display()))?;
    let _ = fs::remove_dir_all(to.join("target"));
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        let target = to.join(item.file_name());
        if item.file_type()?.is_dir() {
            copy_tree(&item.path(), &target)?;
        } else {
            fs::copy(item.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_of_the_builds_names_the_same_version() {
        let script = fs::read_to_string(workspace::root().join(".cargo/protoc")).unwrap();
        assert!(script.contains(&format!("version={}\n", version())), "{}", version());
    }
}
