//! The files in `config/` of the repository are valid, and so is every key that they show as a comment.

use meshwork_config::Config;
use std::{fs, path::Path};

fn dir() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config")
}

#[test]
fn the_example_files_are_valid() {
    for environment in ["dev", "test", "prod"] {
        let config = Config::builder().environment(environment).dir(dir()).env_vars::<&str, &str>([]).build();
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        config.check_sections().unwrap();
        assert!(config.registry().used().unwrap().is_some());
        let files = if environment == "prod" { 2 } else { 1 };
        assert_eq!(config.files_used().len(), files);
    }
}

#[test]
fn every_key_that_is_shown_as_a_comment_is_valid() {
    let text = fs::read_to_string(dir().join("default.toml")).unwrap();
    // `# key = value   # words` is a key with its default; `# words` is not.
    let is_key = |line: &str| {
        line.strip_prefix("# ").is_some_and(|rest| {
            rest.starts_with('[')
                || rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ') || key.starts_with('"'))
        })
    };
    let shown: Vec<_> = text.lines().map(|l| if is_key(l) { &l[2..] } else { l }).collect();
    let config = Config::builder().environment("test").without_files().env_vars::<&str, &str>([]);
    let config = config.code(shown.join("\n")).build().unwrap_or_else(|error| panic!("{error}"));
    let plain =
        Config::builder().environment("prod").without_files().env_vars::<&str, &str>([]).build().unwrap();
    // Defaults are shown as they are.
    assert_eq!(
        (config.server().max_connections, config.server().max_deadline),
        (plain.server().max_connections, plain.server().max_deadline)
    );
    assert_eq!(config.drain(), plain.drain());
    assert_eq!(config.client("default").retry, plain.client("default").retry);
    assert_eq!(config.client("default").timeout, plain.client("default").timeout);
}
