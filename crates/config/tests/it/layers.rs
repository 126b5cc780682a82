use crate::{alone, code, files, in_dir};
use meshwork_config::{Config, Origin};
use std::time::Duration;

#[test]
fn code_wins_over_variables_over_the_environments_file_over_default() {
    let dir = files(&[
        ("default.toml", "[service]\nname = \"a\"\nzone = \"a\"\nregion = \"a\"\ndeployment = \"a\""),
        ("prod.toml", "[service]\nzone = \"b\"\nregion = \"b\"\ndeployment = \"b\""),
    ]);
    let config = in_dir(&dir, "prod")
        .env_vars([("MESHWORK__SERVICE__REGION", "c"), ("MESHWORK__SERVICE__DEPLOYMENT", "c")])
        .code("[service]\ndeployment = \"d\"")
        .build()
        .unwrap();
    let service = config.service();
    let found = [&service.name, &service.zone, &service.region, &service.deployment];
    assert_eq!(found.map(|v| v.as_deref().unwrap()), ["a", "b", "c", "d"]);
    assert_eq!(config.files_used(), [dir.path().join("default.toml"), dir.path().join("prod.toml")]);

    let origins = ["name", "zone", "region", "deployment", "weight"]
        .map(|key| config.origin(&format!("service.{key}")).to_string());
    let path = dir.path().display();
    assert_eq!(
        origins,
        [
            format!("{path}/default.toml:2:1"),
            format!("{path}/prod.toml:2:1"),
            "MESHWORK__SERVICE__REGION".into(),
            "code:2:1".into(),
            "default".into()
        ]
    );
}

#[test]
fn missing_files_are_fine() {
    let dir = files(&[]);
    let config = in_dir(&dir, "dev").build().unwrap();
    assert!(config.files_used().is_empty());
    let nowhere = Config::builder().environment("dev").env_vars::<&str, &str>([]).dir("no/such/directory");
    assert!(nowhere.build().is_ok());
}

#[test]
fn variables_name_the_environment_and_the_directory() {
    let dir = files(&[("stage.toml", "[service]\nname = \"orders\"")]);
    let variables =
        [("MESHWORK_ENV", "stage".into()), ("MESHWORK_CONFIG_DIR", dir.path().as_os_str().to_owned())];
    let config = Config::builder().env_vars(variables).build().unwrap();
    assert_eq!((config.environment(), config.service().name.as_deref()), ("stage", Some("orders")));
}

#[test]
fn the_environment_is_dev_by_default() {
    let config = Config::builder().without_files().env_vars([("MESHWORK_ENV", "")]).build().unwrap();
    assert_eq!(config.environment(), "dev");
    assert!(config.is_development());
}

#[test]
fn tables_are_merged_and_lists_replaced() {
    #[derive(serde::Deserialize)]
    struct Own {
        list: Vec<u8>,
        table: std::collections::BTreeMap<String, u8>,
    }
    let dir = files(&[
        ("default.toml", "[own]\nlist = [1, 2, 3]\ntable = { a = 1, b = 1 }"),
        ("test.toml", "[own]\nlist = [4]\ntable.b = 2"),
    ]);
    let own: Own = in_dir(&dir, "test").build().unwrap().section("own").unwrap();
    assert_eq!(own.list, [4]);
    assert_eq!(own.table.into_iter().collect::<Vec<_>>(), [("a".into(), 1), ("b".into(), 2)]);
}

#[test]
fn a_client_takes_from_default_what_it_does_not_set() {
    let config = code(
        "[client.default]\ntimeout = \"1s\"\nretry = { attempts = 3 }\n\
         [client.users]\nconnect_timeout = \"2s\"\nretry = { budget = 0.1 }",
    )
    .unwrap();
    let users = config.client("users");
    assert_eq!((users.timeout, users.connect_timeout), (Duration::from_secs(1), Duration::from_secs(2)));
    assert_eq!((users.retry.attempts, users.retry.budget), (3, 0.1));
    assert_eq!(config.client("others").timeout, Duration::from_secs(1));
    assert_eq!(config.clients().map(|(name, _)| name).collect::<Vec<_>>(), ["users"]);
    assert_eq!(config.origin("client.users.timeout").to_string(), "code:2:1");
    assert_eq!(config.origin("client.others.timeout").to_string(), "code:2:1");
    assert_eq!(config.origin("client.users.connect_timeout").to_string(), "code:5:1");
    assert_eq!(config.origin("client.users.eager"), Origin::Default);
}

#[test]
fn a_method_has_its_own_timeout() {
    let config =
        code("[client.users.methods.\"users.v1.Users/GetUser\"]\ntimeout = \"300ms\"\nidempotent = true")
            .unwrap();
    let method = &config.client("users").methods["users.v1.Users/GetUser"];
    assert_eq!((method.timeout, method.idempotent), (Some(Duration::from_millis(300)), true));
    let origin = config.origin("client.users.methods.\"users.v1.Users/GetUser\".timeout");
    assert_eq!(origin.to_string(), "code:2:1");
}

#[test]
fn development_settles_at_once_and_others_in_three_seconds() {
    let settle = |environment: &str| alone().environment(environment).build().unwrap().drain().settle;
    assert_eq!([settle("dev"), settle("test")], [Duration::from_millis(200); 2]);
    assert_eq!([settle("prod"), settle("stage")], [Duration::from_secs(3); 2]);
    assert_eq!(alone().build().unwrap().origin("drain.settle"), Origin::Default);
}

#[test]
fn an_absent_section_of_the_application_is_read_as_an_empty_one() {
    #[derive(serde::Deserialize)]
    #[serde(default)]
    struct Own {
        size: u8,
    }
    impl Default for Own {
        fn default() -> Self {
            Self { size: 7 }
        }
    }
    assert_eq!(alone().build().unwrap().section::<Own>("own").unwrap().size, 7);
}

#[test]
fn a_byte_order_mark_and_carriage_returns_are_no_mistake() {
    let config = code("\u{feff}[service]\r\nname = \"orders\"\r\n").unwrap();
    assert_eq!(config.service().name.as_deref(), Some("orders"));
}

#[test]
fn debug_shows_no_values() {
    let builder = alone().env_vars([("MESHWORK__DB__PASSWORD", "hunter2")]).code("[db]\ntoken = \"hunter2\"");
    let shown = format!(
        "{builder:?} {:?} {:?}",
        builder.clone().build().unwrap(),
        alone().build().unwrap().registry()
    );
    assert!(!shown.contains("hunter2"), "{shown}");
}
