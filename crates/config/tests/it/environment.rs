use crate::alone;
use proptest::prelude::*;
use std::{ffi::OsString, os::unix::ffi::OsStringExt};

#[test]
fn what_kubernetes_injects_for_a_service_named_meshwork_changes_nothing() {
    let links = [
        ("MESHWORK_PORT", "tcp://10.0.0.1:80"),
        ("MESHWORK_SERVICE_HOST", "10.0.0.1"),
        ("MESHWORK_SERVICE_PORT", "80"),
        ("MESHWORK_SERVICE_PORT_HTTP", "80"),
        ("MESHWORK_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("MESHWORK_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("MESHWORK_REGISTRY_SERVICE_HOST", "10.0.0.2"),
        // A Service may even be named `meshwork--foo`.
        ("MESHWORK__FOO_SERVICE_HOST", "10.0.0.3"),
        ("MESHWORK__FOO_PORT", "tcp://10.0.0.3:80"),
        ("MESHWORK__FOO_PORT_80_TCP_PROTO", "tcp"),
    ];
    let config = alone().env_vars(links).build().unwrap();
    let plain = alone().build().unwrap();
    assert_eq!((config.service(), config.server()), (plain.service(), plain.server()));
    assert_eq!(config.ignored_variables().len(), links.len());
    assert!(config.ignored_variables().iter().all(|variable| variable.meant.is_none()));
}

#[test]
fn a_single_underscore_for_two_is_reported_and_ignored() {
    let config = alone().env_vars([("MESHWORK_SERVICE_NAME", "x"), ("PATH", "/bin")]).build().unwrap();
    assert_eq!(config.service().name, None);
    let said: Vec<_> = config.ignored_variables().iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        ["MESHWORK_SERVICE_NAME is ignored: two underscores nest, did you mean MESHWORK__SERVICE__NAME?"]
    );
}

#[test]
fn text_that_looks_like_something_else_stays_text() {
    for text in ["123", "0012", "1e5", "true", "[a]", "[\"a\"]", "{ a = 1 }", "a$b", "a\nb: c", "\"", " x "] {
        let config = alone()
            .env_vars([("MESHWORK__SERVICE__NAME", text), ("MESHWORK__SERVICE__LABELS__BUILD", text)])
            .build()
            .unwrap();
        assert_eq!(config.service().name.as_deref(), Some(text));
        assert_eq!(config.service().labels["build"], text);
    }
}

#[test]
fn a_wrong_value_of_a_variable_is_told_as_it_was_read() {
    let error = alone().env_vars([("MESHWORK__SERVICE__WEIGHT", "true")]).build().unwrap_err();
    assert_eq!(
        error.to_string(),
        "environment variable MESHWORK__SERVICE__WEIGHT: `service.weight` must be a whole number from 0 to 65535, not true"
    );
}

#[test]
fn an_empty_variable_is_not_set() {
    let config = alone().env_vars([("MESHWORK__SERVICE__WEIGHT", "")]).build().unwrap();
    assert_eq!(config.service().weight, 100);
}

#[test]
fn a_variable_meets_a_name_that_is_no_shell_name() {
    let dir = crate::files(&[(
        "default.toml",
        "[client.user-service]\ntimeout = \"1s\"\n[service.labels]\nTeam = \"a\"\n[registry.by-team]\nkind = \"memory\"",
    )]);
    let config = crate::in_dir(&dir, "test")
        .env_vars([
            ("MESHWORK__CLIENT__USER_SERVICE__TIMEOUT", "2s"),
            ("MESHWORK__SERVICE__LABELS__TEAM", "b"),
            ("MESHWORK__REGISTRY__BY_TEAM__KIND", "static"),
        ])
        .build()
        .unwrap();
    assert_eq!(config.client("user-service").timeout.as_secs(), 2);
    assert_eq!(config.service().labels["Team"], "b");
    assert_eq!(config.registry().table("by-team").unwrap().kind(), "static");
}

#[test]
fn odd_variables_are_refused_or_ignored() {
    for name in ["MESHWORK__", "MESHWORK____A", "MESHWORK__A__", "MESHWORK__A____B"] {
        let error = alone().env_vars([(name, "x")]).build().unwrap_err();
        assert_eq!(error.variable(), Some(name));
    }
    let deep = format!("MESHWORK__{}", ["A"; 20_000].join("__"));
    assert!(alone().env_vars([(deep, "x")]).build().is_err());
    let error = alone().env_vars([("MESHWORK__A", "x"), ("MESHWORK__A__B", "x")]).build().unwrap_err();
    assert!(error.message().contains("set to a value by another variable"), "{error}");
    let twice = [("MESHWORK__SERVICE__NAME", "x"), ("MESHWORK__SERVICE__name", "y")];
    assert!(alone().env_vars(twice).build().is_err());
    for name in ["", "=", "_", "A__", "__", "MESHWORK", "MESHWORK_", "meshwork__service__name"] {
        assert!(alone().env_vars([(name, "x")]).build().is_ok(), "{name}");
    }
}

#[test]
fn a_value_that_is_not_utf8_is_refused_and_such_a_name_ignored() {
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let value = [(bytes(b"MESHWORK__SERVICE__NAME"), bytes(b"\xff"))];
    assert_eq!(alone().env_vars(value).build().unwrap_err().variable(), Some("MESHWORK__SERVICE__NAME"));
    let name = [(bytes(b"MESHWORK__SERVICE__\xff"), bytes(b"x")), (bytes(b"\xff"), bytes(b"\xff"))];
    assert!(alone().env_vars(name).build().is_ok());
    let environment = [(bytes(b"MESHWORK_ENV"), bytes(b"\xff"))];
    let builder = meshwork_config::Config::builder().without_files().env_vars(environment);
    assert_eq!(builder.build().unwrap_err().variable(), Some("MESHWORK_ENV"));
}

/// Names that are like ours and values that are like TOML, among any other.
fn variables() -> impl Strategy<Value = Vec<(OsString, OsString)>> {
    let part = "(SERVICE|SERVER|DRAIN|CLIENT|REGISTRY|NAME|USE|RETRY|LABELS|METHODS|_{1,5}|[A-Za-z0-9.-]{0,4}|\\PC{0,3})";
    let name = prop_oneof![
        proptest::collection::vec(part, 0..6).prop_map(|parts| format!("MESHWORK__{}", parts.join("__"))),
        proptest::collection::vec(part, 0..4).prop_map(|parts| format!("MESHWORK_{}", parts.join("_"))),
        "\\PC{0,12}",
    ];
    let value = prop_oneof![
        "\\PC{0,12}",
        "[\\[\\]{}=\"',.a-c0-9 \n-]{0,16}",
        "(true|1|-1|1e99|5s|local|\\{ a = 1 \\}|\\[1, \\[\\]\\])",
    ];
    let text = (name, value).prop_map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let bytes =
        (proptest::collection::vec(any::<u8>(), 0..12), proptest::collection::vec(any::<u8>(), 0..12))
            .prop_map(|(name, value)| {
                (OsString::from_vec([b"MESHWORK__".to_vec(), name].concat()), OsString::from_vec(value))
            });
    proptest::collection::vec(prop_oneof![4 => text, 1 => bytes], 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_environment_makes_it_panic(variables in variables()) {
        match alone().env_vars(variables).build() {
            Ok(config) => drop(format!("{config:?} {:?}", config.ignored_variables())),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn no_text_makes_it_panic(text in "([a-z]{1,4}|service|client|registry|use|kind|dual|primary|[\\[\\]{}=\"'.,#\n ä\t-]|1){0,40}") {
        if let Err(error) = alone().code(text).build() {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
