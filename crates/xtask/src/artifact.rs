//! One line of cargo's JSON messages: which executable was made from which target.
//!
//! Only four fields are needed, and cargo writes them in one fixed form: a JSON parser would be the larger part.

use std::path::{Path, PathBuf};

/// What an executable was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The unit tests of a library or a binary.
    Unit,
    /// An integration test.
    Integration,
    /// A binary to run.
    Binary,
}

/// An executable that cargo has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Artifact {
    pub(crate) kind: Kind,
    /// The target's name, for instance `scenario`.
    pub(crate) name: String,
    /// The folder of its package.
    pub(crate) dir: PathBuf,
    pub(crate) executable: PathBuf,
}

impl Artifact {
    /// Reads a message; `None` when it is not about an executable that we run.
    pub(crate) fn read(line: &str) -> Option<Self> {
        line.contains("\"reason\":\"compiler-artifact\"").then_some(())?;
        let executable = text(line, "\"executable\":\"")?;
        let manifest = text(line, "\"manifest_path\":\"")?;
        let target = &line[line.find("\"target\":{")?..];
        let kind = text(target, "\"kind\":[\"")?;
        let profile = &line[line.find("\"profile\":{")?..];
        let is_test = profile[..profile.find('}')?].contains("\"test\":true");
        let kind = match (kind.as_str(), is_test) {
            ("test", true) => Kind::Integration,
            ("lib" | "bin", true) => Kind::Unit,
            ("bin", false) => Kind::Binary,
            _ => return None,
        };
        Some(Self {
            kind,
            name: text(target, "\"name\":\"")?,
            dir: Path::new(&manifest).parent()?.to_path_buf(),
            executable: executable.into(),
        })
    }
}

/// The JSON string that follows `key`.
fn text(line: &str, key: &str) -> Option<String> {
    let mut found = String::new();
    let mut letters = line[line.find(key)? + key.len()..].chars();
    loop {
        match letters.next()? {
            '"' => return Some(found),
            '\\' => found.push(letters.next()?),
            letter => found.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: &str, is_test: bool, executable: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"path+file:///w/crates/core#0.1.0","manifest_path":"/w/crates/core/Cargo.toml","target":{{"kind":["{kind}"],"crate_types":["{kind}"],"name":"one","src_path":"/w/x.rs","test":true}},"profile":{{"opt_level":"0","test":{is_test}}},"features":[],"filenames":[],"executable":{executable},"fresh":true}}"#
        )
    }

    #[test]
    fn tells_tests_from_binaries() {
        let read = |kind, is_test| Artifact::read(&message(kind, is_test, r#""/w/t/one""#)).map(|a| a.kind);
        assert_eq!(read("lib", true), Some(Kind::Unit));
        assert_eq!(read("bin", true), Some(Kind::Unit));
        assert_eq!(read("bin", false), Some(Kind::Binary));
        assert_eq!(read("test", true), Some(Kind::Integration));
        assert_eq!(read("example", false), None);
    }

    #[test]
    fn reads_names_and_paths() {
        let read = Artifact::read(&message("lib", true, r#""/w/t/o\"ne""#)).unwrap();
        assert_eq!((read.name.as_str(), read.dir.as_path()), ("one", Path::new("/w/crates/core")));
        assert_eq!(read.executable, Path::new("/w/t/o\"ne"));
        assert_eq!(Artifact::read(&message("lib", false, "null")), None);
    }
}
