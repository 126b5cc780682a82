use crate::{alone, code, files, in_dir, refused};

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Etcd {
    endpoints: Vec<String>,
    #[serde(default, with = "meshwork_config::duration::option")]
    lease_ttl: Option<std::time::Duration>,
}

const SAMPLE: &str = r#"
[registry]
use = "by-team"
[registry.etcd]
endpoints = ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]
lease_ttl = "15s"
[registry.consul]
address = "http://127.0.0.1:8500"
[registry.both]
kind = "dual"
primary = "etcd"
secondary = "consul"
[registry.by-team]
kind = "split"
default = "etcd"
routes = { "core-*" = "both", "edge-*" = "local" }
"#;

#[test]
fn a_table_is_read_by_its_backend() {
    let config = code(SAMPLE).unwrap();
    let registry = config.registry();
    let used = registry.used().unwrap().unwrap();
    assert_eq!((used.name(), used.kind()), ("by-team", "split"));
    let etcd: Etcd = registry.table("etcd").unwrap().extract().unwrap();
    assert_eq!((etcd.endpoints.len(), etcd.lease_ttl.unwrap().as_secs()), (2, 15));
    assert_eq!(
        registry.tables().map(|table| table.kind()).collect::<Vec<_>>(),
        ["dual", "split", "consul", "etcd"]
    );
    assert_eq!((registry.start_timeout.as_secs(), registry.required), (10, true));
    assert!(registry.table("nowhere").is_none());
}

#[test]
fn a_backends_mistakes_have_their_place() {
    let config =
        code("[registry.main]\nkind = \"etcd\"\nendpoints = [\"a\", 5]\nlease_tll = \"15s\"").unwrap();
    let table = config.registry().table("main").unwrap();
    let error = table.extract::<Etcd>().unwrap_err();
    let said: Vec<_> = error.mistakes().map(|m| (m.key(), m.origin().unwrap().to_string())).collect();
    assert_eq!(
        said,
        [
            ("registry.main.endpoints.1", "code:3:19".to_owned()),
            ("registry.main.lease_tll", "code:4:1".to_owned()),
            ("registry.main.endpoints", "code:3:1".to_owned()),
        ][..said.len()]
    );
    let error = table.error("endpoints", "none answers");
    assert_eq!((error.message(), error.line()), ("invalid `registry.main.endpoints`: none answers", Some(3)));
    assert_eq!(table.error("", "needs the feature `etcd`").line(), Some(1));
}

#[test]
fn an_unknown_kind_is_corrected() {
    let config = code("[registry.etdc]\nendpoints = []").unwrap();
    let error = config.registry().table("etdc").unwrap().unknown_kind(&["etcd", "local"]);
    assert_eq!(error.message(), "`registry.etdc` is of an unknown kind `etdc`");
    assert_eq!((error.hint(), error.line()), (Some("did you mean `etcd`?"), Some(1)));
}

#[test]
fn without_use_there_is_local_in_development_only() {
    for environment in ["dev", "test"] {
        let config = alone().environment(environment).build().unwrap();
        assert_eq!(config.registry().used().unwrap().unwrap().kind(), "local");
    }
    let dir = files(&[("prod.toml", "[registry.etcd]\nendpoints = []")]);
    let config = in_dir(&dir, "prod").build().unwrap();
    let error = config.registry().used().unwrap_err();
    assert_eq!(error.key(), "registry.use");
    assert_eq!(error.message(), "missing key `use` in `[registry]`: in `prod` there is no default");
    let hint = error.hint().unwrap();
    for part in ["prod.toml", "MESHWORK__REGISTRY__USE", "`etcd`", "`none`"] {
        assert!(hint.contains(part), "{hint}");
    }
}

#[test]
fn none_runs_without_any_and_bare_kinds_need_no_table() {
    let chosen = |word: &str| {
        let config =
            alone().environment("prod").env_vars([("MESHWORK__REGISTRY__USE", word)]).build().unwrap();
        config.registry().used().unwrap().map(|table| table.kind().to_owned())
    };
    assert_eq!(chosen("none"), None);
    for word in ["local", "static", "memory"] {
        assert_eq!(chosen(word).as_deref(), Some(word));
    }
}

#[test]
fn a_table_may_be_named_like_a_bare_kind() {
    let config =
        code("[registry]\nuse = \"static\"\n[registry.static]\nusers = [\"http://127.0.0.1:1\"]").unwrap();
    let table = config.registry().used().unwrap().unwrap();
    let users: std::collections::BTreeMap<String, Vec<String>> = table.extract().unwrap();
    assert_eq!(users["users"].len(), 1);
}

#[test]
fn use_must_name_a_table() {
    let error = refused("[registry]\nuse = \"ectd\"\n[registry.etcd]\n[registry.consul]");
    assert_eq!(error.message(), "`registry.use` names `ectd`, but there is no table `[registry.ectd]`");
    let tables = "tables: `consul`, `etcd`; without a table: `local`, `static`, `memory`, `none`";
    assert_eq!(error.hint(), Some(&*format!("did you mean `etcd`? {tables}")));
    assert_eq!((error.line(), error.column()), (Some(2), Some(7)));
    let error = refused("[registry]\nuse = \"etcd\"");
    assert!(error.hint().is_some_and(|hint| hint.starts_with("there is no table")), "{error}");
}

#[test]
fn members_must_name_tables() {
    let error = refused("[registry.a]\nkind = \"dual\"\nprimary = \"local\"\nsecondary = \"b\"");
    assert_eq!((error.key(), error.line()), ("registry.a.secondary", Some(4)));
    let error = refused("[registry.a]\nkind = \"split\"\ndefault = \"local\"\nroutes = { \"x-*\" = \"b\" }");
    assert_eq!(error.key(), "registry.a.routes.\"x-*\"");
    // Only a dual and a split have members.
    assert!(code("[registry.a]\nkind = \"other\"\nprimary = \"b\"").is_ok());
}

#[test]
fn a_registry_cannot_be_a_member_of_itself() {
    let error = refused("[registry.both]\nkind = \"dual\"\nprimary = \"both\"\nsecondary = \"local\"");
    assert_eq!(error.message(), "`registry.both.primary` names its own table `[registry.both]`");
    assert_eq!(error.line(), Some(3));
    let error = refused(
        "[registry.a]\nkind = \"dual\"\nprimary = \"local\"\nsecondary = \"b\"\n\
         [registry.b]\nkind = \"split\"\ndefault = \"c\"\n\
         [registry.c]\nkind = \"split\"\ndefault = \"local\"\nroutes = { \"x\" = \"b\" }",
    );
    assert_eq!(error.message(), "`registry.c.routes.x` closes a circle: b -> c -> b");
    assert_eq!(error.mistakes().count(), 1);
}

#[test]
fn two_ways_to_one_table_are_no_circle() {
    let diamond = "[registry.a]\nkind = \"split\"\ndefault = \"b\"\nroutes = { \"x-*\" = \"c\" }\n\
         [registry.b]\nkind = \"split\"\ndefault = \"d\"\n[registry.c]\nkind = \"split\"\ndefault = \"d\"\n\
         [registry.d]\nkind = \"memory\"";
    assert!(code(diamond).is_ok());
}

#[test]
fn the_sides_of_a_dual_are_two_registries() {
    let dual = |sides: &str, rest: &str| format!("[registry.both]\nkind = \"dual\"\n{sides}\n{rest}");
    let error = refused(&dual("primary = \"a\"\nsecondary = \"a\"", "[registry.a]\nkind = \"etcd\""));
    assert_eq!(error.message(), "`registry.both.secondary` names the same registry as `primary`");
    assert_eq!((error.line(), error.column()), (Some(4), Some(13)));
    assert!(error.hint().is_some_and(|hint| hint.contains("name two registries")), "{error}");
    assert!(code(&dual("primary = \"local\"\nsecondary = \"local\"", "")).is_err());

    // By another name.
    let sides = "primary = \"a\"\nsecondary = \"b\"";
    let twins = |kind: &str| {
        let table = |name: &str| format!("[registry.{name}]\nkind = {kind:?}\n");
        dual(sides, &(table("a") + &table("b")))
    };
    let error = refused(&twins("etcd"));
    assert_eq!(error.message(), "`[registry.a]` and `[registry.b]` are the same registry twice");
    assert!(code(&twins("memory")).is_ok());

    // By a way through others.
    let nested = "[registry.b]\nkind = \"dual\"\nprimary = \"c\"\nsecondary = \"d\"\n\
         [registry.c]\nkind = \"memory\"\n[registry.d]\nkind = \"split\"\ndefault = \"a\"\n[registry.a]\nkind = \"etcd\"";
    let error = refused(&dual(sides, nested));
    assert_eq!(error.message(), "both sides of `[registry.both]` lead to `[registry.a]`");
    // A split that routes may send every service to one side only.
    let routed = nested.replace("default = \"a\"", "default = \"a\"\nroutes = { \"x\" = \"local\" }");
    assert!(code(&dual(sides, &routed)).is_ok());
}

#[test]
fn one_variable_changes_the_registry_for_a_process() {
    let dir = files(&[("prod.toml", SAMPLE)]);
    let config = in_dir(&dir, "prod")
        .env_vars([("MESHWORK__REGISTRY__USE", "etcd"), ("MESHWORK__REGISTRY__ETCD__LEASE_TTL", "20s")])
        .build()
        .unwrap();
    let table = config.registry().used().unwrap().unwrap();
    assert_eq!(table.extract::<Etcd>().unwrap().lease_ttl.unwrap().as_secs(), 20);
    assert_eq!(config.origin("registry.etcd.lease_ttl").to_string(), "MESHWORK__REGISTRY__ETCD__LEASE_TTL");
}
