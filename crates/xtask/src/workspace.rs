//! Where the workspace is and how its cargo is called: with one feature set, so that nothing is built twice.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// What every build here selects. Another selection would resolve other features and build the dependencies again.
pub(crate) const SELECTION: [&str; 2] = ["--workspace", "--all-features"];

/// The root of the clone.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.ancestors().nth(2).expect("invariant: the crate lies two folders below the root").to_path_buf()
}

/// The cargo that started us, run at the root.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}
