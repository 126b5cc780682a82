//! Builds the workspace once and knows what came out of it.

use std::path::{Path, PathBuf};

use crate::{
    artifact::{Artifact, Kind},
    run, workspace,
};

/// The executables of one build.
pub(crate) struct Built {
    artifacts: Vec<Artifact>,
    is_whole: bool,
}

/// What to build.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Targets {
    Binaries,
    BinariesAndTests,
}

impl Built {
    /// Builds what it can: a crate that does not compile takes only those with it that need it.
    pub(crate) fn make(targets: Targets) -> Result<Self, String> {
        let mut command = workspace::cargo(&["build"]);
        command.args(workspace::SELECTION).args(["--keep-going", "--message-format=json-render-diagnostics"]);
        command.arg("--bins");
        if targets == Targets::BinariesAndTests {
            command.args(["--tests", "--examples"]);
        }
        let mut artifacts = Vec::new();
        let status = run::lines(&mut command, None, |line| artifacts.extend(Artifact::read(line)))?;
        artifacts.sort_by(|a, b| (&a.dir, &a.name).cmp(&(&b.dir, &b.name)));
        Ok(Self { artifacts, is_whole: status.success() })
    }

    /// Whether everything compiled.
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The binary `name` of the package in the folder `dir` of the workspace.
    pub(crate) fn binary(&self, dir: &str, name: &str) -> Option<PathBuf> {
        let dir = workspace::root().join(dir);
        let is_it = |a: &&Artifact| a.kind == Kind::Binary && a.name == name && a.dir == dir;
        self.artifacts.iter().find(is_it).map(|a| a.executable.clone())
    }

    /// All binaries of the packages below the folder `dir` of the workspace: their names and where they are.
    pub(crate) fn binaries_below(&self, dir: &str) -> Vec<(&str, &Path)> {
        let dir = workspace::root().join(dir);
        let found = self.artifacts.iter().filter(|a| a.kind == Kind::Binary && a.dir.starts_with(&dir));
        found.map(|a| (a.name.as_str(), a.executable.as_path())).collect()
    }

    /// The test executables of a kind, by package folder.
    pub(crate) fn tests(&self, kind: Kind) -> Vec<(&Path, Vec<&Artifact>)> {
        let mut packages: Vec<(&Path, Vec<&Artifact>)> = Vec::new();
        for artifact in self.artifacts.iter().filter(|a| a.kind == kind) {
            match packages.last_mut() {
                Some((dir, list)) if *dir == artifact.dir => list.push(artifact),
                _ => packages.push((&artifact.dir, vec![artifact])),
            }
        }
        packages
    }
}
