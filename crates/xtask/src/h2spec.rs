//! Provides h2spec, which says whether a server keeps to HTTP/2: named by the environment, in the cache, or built once
//! from its Go module.

use std::{env, path::PathBuf};

use crate::{cache::Entry, golang::Module};

const FILE: &str = "h2spec";
const PACKAGE: &str = "github.com/summerwind/h2spec";
const MODULE: Module = Module {
    folder: "h2spec",
    go_mod: include_str!("../servers/h2spec/go.mod"),
    programs: &[(FILE, "github.com/summerwind/h2spec/cmd/h2spec")],
    takes: "a few seconds",
};
/// What the environment calls the binary, for tests and for users.
pub(crate) const VARIABLE: &str = "MESHWORK_H2SPEC";

/// Makes sure that there is one.
pub(crate) fn provide() -> Result<PathBuf, String> {
    if let Some(named) = env::var_os(VARIABLE).map(PathBuf::from) {
        return if named.is_file() {
            Ok(named)
        } else {
            Err(format!("{VARIABLE}={} is no file", named.display()))
        };
    }
    let built = Entry::new(FILE, MODULE.version(PACKAGE))?;
    if !built.has(&[FILE]) {
        MODULE.fill(&built).map_err(|reasons| {
            let (go, reasons) = (MODULE.go(), reasons.join("\n  "));
            format!("no h2spec: install Go {go} or newer, or set {VARIABLE} to one\n  {reasons}")
        })?;
    }
    Ok(built.path(FILE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wrapper_module_pins_a_version() {
        assert_eq!(MODULE.version(PACKAGE), "2.2.1");
    }
}
