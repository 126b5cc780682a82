//! The configuration through its public door.

mod bad_input;
mod environment;
mod examples;
mod layers;
mod registry;
mod reload;
mod schema;

use meshwork_config::{Config, ConfigBuilder, ConfigError};
use std::{fs, path::Path};
use tempfile::TempDir;

/// A configuration that reads nothing of this process.
fn alone() -> ConfigBuilder {
    Config::builder().environment("test").without_files().env_vars::<&str, &str>([])
}

fn code(toml: &str) -> Result<Config, ConfigError> {
    alone().code(toml).build()
}

fn refused(toml: &str) -> ConfigError {
    code(toml).expect_err("must be refused")
}

/// A directory with these files.
fn files(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, text) in files {
        write(dir.path(), name, text.as_bytes());
    }
    dir
}

fn write(dir: &Path, name: &str, bytes: &[u8]) {
    fs::write(dir.join(name), bytes).expect("a file in a temporary directory");
}

fn in_dir(dir: &TempDir, environment: &str) -> ConfigBuilder {
    Config::builder().environment(environment).dir(dir.path()).env_vars::<&str, &str>([])
}
