use crate::{alone, code, files, in_dir, refused, write};
use meshwork_config::Config;
use std::error::Error;

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Orders {
    #[expect(dead_code, reason = "only read by serde")]
    max_items: u32,
    #[expect(dead_code, reason = "only read by serde")]
    api_token: Option<u32>,
}

#[test]
fn an_unknown_key_is_shown_with_its_place_and_the_nearest_key() {
    let dir =
        files(&[("prod.toml", "# comment\n[registry]\nuse = \"local\"\n\n[service]\n  nmae = \"orders\"\n")]);
    let error = in_dir(&dir, "prod").build().unwrap_err();
    assert_eq!(error.file(), Some(&*dir.path().join("prod.toml")));
    assert_eq!((error.line(), error.column(), error.key()), (Some(6), Some(3), "service.nmae"));
    assert_eq!(error.message(), "unknown key `service.nmae`");
    assert_eq!(error.hint(), Some("did you mean `name`?"));
    let expected = format!(
        "{}/prod.toml:6:3: unknown key `service.nmae`\n   |\n 6 |   nmae = …\n   |   ^^^^ did you mean `name`?",
        dir.path().display()
    );
    assert_eq!(error.to_string(), expected);
}

#[test]
fn an_unknown_key_like_no_other_lists_the_valid_ones() {
    let error = refused("[drain]\nbanana = 1");
    assert_eq!(error.hint(), Some("valid keys: `settle`, `deadline`, `flush`"));
}

#[test]
fn the_url_of_a_webhook_is_judged_and_never_shown() {
    let wrong = [
        "s3cr3t.internal",
        "ftp://s3cr3t",
        "http:///s3cr3t",
        "https://u:s3cr3t@h/",
        "http://h/s3cr3t#a",
        "http://h/ s3cr3t",
    ];
    for url in wrong {
        let error = refused(&format!("[service.notices]\nwebhook = {url:?}"));
        assert_eq!((error.key(), error.line()), ("service.notices.webhook", Some(2)), "{url}");
        assert!(!format!("{error} {error:?}").contains("s3cr3t"), "{error}");
    }
    let said = code("[service.notices]\nwebhook = \"https://[::1]:80?k=s3cr3t\"").unwrap();
    let notices = &said.service().notices;
    assert_eq!(notices.webhook.as_ref().unwrap().parts(), Ok(("https", "[::1]:80", "?k=s3cr3t")));
    assert!(!format!("{said:?} {notices:?}").contains("s3cr3t"));
}

#[test]
fn unknown_keys_are_refused_everywhere() {
    for (toml, key, meant) in [
        ("[service]\nlables = {}", "service.lables", "labels"),
        ("[service.advertise]\ninterfase = \"eth0\"", "service.advertise.interfase", "interface"),
        ("[server]\nmax_conections = 1", "server.max_conections", "max_connections"),
        ("[drain]\nsetle = \"1s\"", "drain.setle", "settle"),
        ("[client.users]\ntimout = \"1s\"", "client.users.timout", "timeout"),
        ("[client.default]\ntimout = \"1s\"", "client.default.timout", "timeout"),
        ("[client.users]\nretry = { attemps = 2 }", "client.users.retry.attemps", "attempts"),
        ("[client.u.methods.\"a/b\"]\ntimout = \"1s\"", "client.u.methods.\"a/b\".timout", "timeout"),
        ("[registry]\nstart-timeout = \"1s\"", "registry.start-timeout", "start_timeout"),
    ] {
        let error = refused(toml);
        assert_eq!(error.key(), key);
        assert_eq!(error.hint(), Some(&*format!("did you mean `{meant}`?")), "{toml}");
        assert!(error.line().is_some());
    }
}

#[test]
fn an_unknown_variable_is_answered_with_the_right_variable() {
    for (wrong, right) in [
        ("MESHWORK__SERVICE__NMAE", "MESHWORK__SERVICE__NAME"),
        ("MESHWORK__CLIENT__USERS__TIMOUT", "MESHWORK__CLIENT__USERS__TIMEOUT"),
        ("MESHWORK__SERVER__MAX__CONNECTIONS", "MESHWORK__SERVER__MAX_CONNECTIONS"),
        ("MESHWORK__REGISTRY__START__TIMEOUT", "MESHWORK__REGISTRY__START_TIMEOUT"),
        ("MESHWORK__REGISTRY_USE", "MESHWORK__REGISTRY__USE"),
        ("MESHWORK__NAME", "MESHWORK__SERVICE__NAME"),
        ("MESHWORK__CLIENT__TIMEOUT", "MESHWORK__CLIENT__DEFAULT__TIMEOUT"),
        ("MESHWORK__CLIENT__USERS__LB", "MESHWORK__CLIENT__USERS__BALANCE"),
    ] {
        let error = alone().env_vars([(wrong, "1s")]).build().unwrap_err();
        assert_eq!(error.variable(), Some(wrong));
        assert!(error.hint().is_some_and(|hint| hint.contains(&format!("`{right}`"))), "{error}");
    }
}

#[test]
fn shedding_is_a_table_and_says_so_and_its_values_have_ranges() {
    let error = refused("[server]\nshed = true");
    assert_eq!(error.message(), "`server.shed` must be a table with `enabled = true`, not true");
    for (toml, message) in [
        ("least = 0", "invalid `server.shed.least`: 0 is not within 1 to 1000000"),
        ("least = 30\ninitial = 40\nmost = 20", "invalid `server.shed.most`: 20 is not within 30 to 1000000"),
        ("initial = 1", "invalid `server.shed.initial`: 1 is not within 2 to 4096"),
        ("window = \"1ms\"", "invalid `server.shed.window`: 1ms is not within 10ms to 10s"),
        ("look = \"0s\"", "invalid `server.shed.look`: must be 1s or longer"),
        ("critical_share = 1.5", "invalid `server.shed.critical_share`: 1.5 is not within 0.0 to 1.0"),
        ("reserved_share = 1.0", "invalid `server.shed.reserved_share`: 1.0 is not within 0.0 to 0.9"),
    ] {
        let error = refused(&format!("[server.shed]\n{toml}"));
        assert_eq!(error.message(), message, "{toml}");
    }
}

#[test]
fn an_invalid_duration_says_what_is_valid() {
    for (toml, message) in [
        ("[drain]\nsettle = 5", "invalid `drain.settle`: `5` has no unit"),
        ("[drain]\nsettle = \"5\"", "invalid `drain.settle`: `5` has no unit"),
        ("[drain]\nsettle = \"soon\"", "invalid `drain.settle`: `soon` is no duration"),
        ("[drain]\nsettle = \"-1s\"", "invalid `drain.settle`: `-1s` is no duration"),
        ("[client.a]\nattempt_timeout = 1.5", "invalid `client.a.attempt_timeout`: `1.5` has no unit"),
    ] {
        let error = refused(toml);
        assert_eq!(error.message(), message);
        assert!(error.hint().is_some_and(|hint| hint.contains("\"300ms\", \"3s\", \"1m\"")), "{error}");
        assert_eq!(error.line(), Some(2));
    }
    let error = alone().env_vars([("MESHWORK__DRAIN__SETTLE", "5")]).build().unwrap_err();
    assert!(error.message().contains("`5` has no unit"), "{error}");
    let error = refused("[drain]\nsettle = true");
    assert!(error.message().contains("must be a duration with a unit"), "{error}");
}

#[test]
fn a_value_of_the_wrong_type_is_shown() {
    for (toml, message) in [
        ("[service]\nname = 5", "`service.name` must be text, not 5"),
        (
            "[service]\nweight = \"5\"",
            "`service.weight` must be a whole number from 0 to 65535, not the text \"5\"",
        ),
        ("[service]\nweight = -1", "`service.weight` must be a whole number from 0 to 65535, not -1"),
        ("[service]\nweight = 65536", "`service.weight` must be a whole number from 0 to 65535, not 65536"),
        ("[service]\nedge = \"yes\"", "`service.edge` must be true or false, not the text \"yes\""),
        ("[service]\nlabels = []", "`service.labels` must be a table, not a list"),
        (
            "[service.advertise]\nport = 0",
            "`service.advertise.port` must be a whole number from 1 to 65535, not 0",
        ),
        (
            "[server]\nmax_connections = 0",
            "`server.max_connections` must be a whole number, 1 or more, not 0",
        ),
        ("service = 5", "`service` must be a table, not 5"),
        ("registry = 5", "`registry` must be a table, not 5"),
        ("client = 5", "`client` must be a table, not 5"),
        ("[registry]\nuse = []", "`registry.use` must be text, not a list"),
        ("[registry.use]\na = 1", "`registry.use` must be text, not a table"),
        ("[registry.etcd]\nkind = 1", "`registry.etcd.kind` must be text"),
    ] {
        assert_eq!(refused(toml).message(), message);
    }
}

#[test]
fn a_value_out_of_its_range_is_refused() {
    for (toml, part) in [
        ("[client.a]\nretry = { attempts = 6 }", "`client.a.retry.attempts`: 6 is not within 1 to 5"),
        ("[client.a]\nretry = { attempts = 0 }", "`client.a.retry.attempts`: 0 is not within 1 to 5"),
        ("[client.a]\nretry = { budget = 1.5 }", "`client.a.retry.budget`: 1.5 is not within 0.0 to 1.0"),
        ("[client.a]\nretry = { budget = nan }", "`client.a.retry.budget`: NaN is not within 0.0 to 1.0"),
        ("[client.a]\nconnect_timeout = \"0s\"", "`client.a.connect_timeout`: must be longer than 0s"),
        ("[client.a]\nmax_age = \"0s\"", "`client.a.max_age`: must be longer than 0s"),
        ("[client.a.tls]\nkey_file = \"k\"", "`client.a.tls.key_file`: TLS takes both files"),
        ("[client.default]\nretry.attempts = 9", "`client.default.retry.attempts`: 9 is not within 1 to 5"),
        ("[client.a.methods.GetUser]\nidempotent = true", "`GetUser` is no method"),
        ("[client.a]\nhash_header = \"\"", "`client.a.hash_header`: `` is no name of a header"),
        ("[client.a]\nhash_header = \"x user\"", "`x user` is no name of a header"),
        ("[client.a]\nhash_bound = 1.0", "`client.a.hash_bound`: 1.0 is not within 1.05 to 1000.0"),
        ("[client.a]\nhash_bound = nan", "`client.a.hash_bound`: NaN is not within 1.05 to 1000.0"),
        ("[client.a]\nchoices = 1", "`client.a.choices`: 1 is not within 2 to 16"),
        ("[client.a]\nzone_aware = \"yes\"", "`client.a.zone_aware` must be true or false"),
        ("[client.a]\nzone_skew = 0.9", "`client.a.zone_skew`: 0.9 is not within 1.0 to 1000.0"),
        ("[client.a]\naperture = 0", "`client.a.aperture`"),
        ("[client.a]\nlimit = { concurrency = 0 }", "`client.a.limit.concurrency`"),
        ("[client.a]\nlimit = { rate = -1 }", "`client.a.limit.rate`"),
        ("[client.a]\nlimit = { burst = \"x\" }", "`client.a.limit.burst`"),
        ("[client.a]\nlimit = { queue = -1 }", "`client.a.limit.queue`"),
        ("[client.a]\nlimit = { longest_wait = 5 }", "`client.a.limit.longest_wait`"),
        ("[client.a.subsets.blue]\nshare = 0.5", "`client.a.subsets.blue`: it has every instance"),
        (
            "[client.a.subsets.blue]\nversion = \"2\"\nshare = 1.5",
            "`client.a.subsets.blue.share`: 1.5 is not within",
        ),
        ("[client.a.subsets.blue]\ndeployment = 5", "`client.a.subsets.blue.deployment` must be"),
        ("[client.a.subsets.blue]\nlabels = [\"a\"]", "`client.a.subsets.blue.labels` must be"),
        ("[client.a.subsets.\"so blue\"]\nversion = \"2\"", "a lane has 1 to 256 visible characters"),
        (
            "[client.a.subsets]\nx = { version = \"1\", share = 0.7 }\ny = { version = \"2\", share = 0.7 }",
            "`client.a.subsets`: the shares make 1.40, more than 1.0",
        ),
        (
            "[client.a.methods.\"b.C/D\"]\nattempt_timeout = \"0s\"",
            "attempt_timeout`: must be longer than 0s",
        ),
        ("[client.a.methods.\"b.C/D\"]\ntimeout = \"0s\"", "timeout`: must be longer than 0s"),
        ("[client.a.methods.\"b.C/D\"]\nretry = { attempts = 6 }", "attempts`: 6 is not within 1 to 5"),
        ("[client.a.methods.\"b.C/D\"]\nretry = { budget = 0.1 }", "unknown key"),
        ("[client.a.methods.\"b.C/D\"]\nhash_header = \"a:b\"", "`a:b` is no name of a header"),
        ("[client.a.methods.\"b.C/D\"]\nlimit = { rate = 0 }", "limit.rate`"),
        ("[server]\nmax_headers_bytes = 100", "`server.max_headers_bytes`: 100 is not within 8192 to"),
        (
            "[server]\ndefault_deadline = \"2m\"",
            "`server.default_deadline`: longer than `server.max_deadline` (1m)",
        ),
        ("[service]\nhttp = \"8080\"", "`service.http`: `8080` has no port"),
        ("[service]\nhttp = \":8080\"", "`service.http`: `` is no host"),
        ("[service]\nhttp = \"0.0.0.0:99999\"", "`99999` is no port from 0 to 65535"),
        ("[service]\ngrpc = \"http://a:80\"", "`http://a` is no host"),
        ("[service]\ngrpc = \"::1:80\"", "`::1` is no host"),
        ("[service.advertise]\nip = \"0.0.0.0\"", "`service.advertise.ip`: a wildcard"),
        ("[service.advertise]\nip = \"::\"", "`service.advertise.ip`: a wildcard"),
        ("[service.advertise]\nip = \"localhost\"", "invalid `service.advertise.ip`"),
        ("[service.advertise]\nip = \"10.0.0.1\"\nhost = \"a\"", "only one of `host`, `ip` can be set"),
        ("[registry]\nstart_timeout = \"0s\"", "`registry.start_timeout`: must be longer than 0s"),
    ] {
        let error = refused(toml);
        assert!(error.message().contains(part), "{error}");
        assert!(error.line().is_some(), "{error}");
    }
}

#[test]
fn a_word_of_a_fixed_set_is_corrected() {
    let error = refused("[client.a]\nbalance = \"p2\"");
    assert_eq!(error.message(), "`client.a.balance` cannot be \"p2\"");
    assert_eq!(error.hint(), Some("did you mean \"p2c\"?"));
    let error = refused("[service.advertise]\nprefer = \"both\"");
    assert_eq!(error.hint(), Some("valid values: `ipv4`, `ipv6`"));
}

#[test]
fn the_deadline_must_outlast_settling_by_a_second() {
    let error = refused("[drain]\nsettle = \"3s\"\ndeadline = \"3s\"");
    assert_eq!((error.key(), error.line()), ("drain.deadline", Some(3)));
    assert_eq!(error.hint(), Some("make the deadline 4s or more"));
    assert!(code("[drain]\nsettle = \"3s\"\ndeadline = \"4s\"").is_ok());
    let error = refused("[drain]\nsettle = \"1m\"");
    assert_eq!((error.key(), error.line()), ("drain.settle", Some(2)));
}

#[test]
fn several_mistakes_are_told_at_once() {
    let dir = files(&[("default.toml", "[service]\nnmae = \"a\"\nweight = \"5\"\n[drain]\nsetle = \"1s\"")]);
    let error = in_dir(&dir, "test")
        .env_vars([("MESHWORK__CLIENT__USERS__TIMEOUT", "soon")])
        .code("[registry]\nuse = \"nowhere\"")
        .build()
        .unwrap_err();
    let keys: Vec<_> = error.mistakes().map(|mistake| mistake.key().to_owned()).collect();
    assert_eq!(
        keys,
        ["service.nmae", "service.weight", "drain.setle", "client.users.timeout", "registry.use"]
    );
    assert!(error.to_string().starts_with("5 mistakes in the configuration\n"), "{error}");
}

#[test]
fn a_mistake_in_the_clients_default_is_told_once() {
    let error = refused("[client.default]\ntimout = \"1s\"\n[client.a]\n[client.b]");
    assert_eq!(error.mistakes().count(), 1);
}

#[test]
fn a_key_with_another_name_elsewhere_is_answered_with_ours() {
    let error = refused("[client.users]\nlb = \"p2c\"");
    assert_eq!(error.message(), "`client.users.lb` is called `client.users.balance`");
    assert_eq!(error.hint(), Some("write `balance`"));
}

#[test]
fn a_key_outside_of_every_section_is_refused() {
    let error = refused("name = \"orders\"");
    assert_eq!(error.hint(), Some("did you mean `service.name`?"));
    assert!(refused("banana = 1").hint().is_some_and(|hint| hint.contains("section")));
    assert_eq!(refused("[client]\ntimeout = \"1s\"").hint(), Some("did you mean `client.default.timeout`?"));
}

#[test]
fn a_section_that_nobody_asked_for_is_refused_if_it_looks_like_ours() {
    let config = code("[sevice]\nname = \"a\"\n[banana]\na = 1\n[train]\nmax_items = 1").unwrap();
    let _train: Orders = config.section("train").unwrap();
    let error = config.check_sections().unwrap_err();
    assert_eq!((error.key(), error.line(), error.column()), ("sevice", Some(1), Some(2)));
    assert_eq!(error.hint(), Some("did you mean `service`?"));
    assert_eq!(error.mistakes().count(), 1);
    assert!(code("[banana]\na = 1").unwrap().check_sections().is_ok());
}

#[test]
fn an_applications_section_has_the_same_errors() {
    let config = code("[orders]\nmax_itms = 1\napi_token = \"hunter2\"").unwrap();
    let error = config.section::<Orders>("orders").unwrap_err();
    let keys: Vec<_> = error.mistakes().map(|mistake| mistake.key().to_owned()).collect();
    assert_eq!(keys, ["orders.api_token", "orders.max_itms", "orders.max_items"]);
    assert!(!error.to_string().contains("hunter2"), "a secret is shown: {error}");

    let missing = alone().build().unwrap().section::<Orders>("orders").unwrap_err();
    assert_eq!(missing.message(), "missing key `orders.max_items`");
    assert!(missing.hint().is_some_and(|hint| hint.contains("MESHWORK__ORDERS__MAX_ITEMS")));
}

#[test]
fn a_broken_file_is_shown_with_its_place() {
    let dir = files(&[("default.toml", "[service]\nname = \"a\nzone = 1\n"), ("test.toml", "a = 1\na = 2")]);
    let error = in_dir(&dir, "test").build().unwrap_err();
    let places: Vec<_> = error.mistakes().map(|m| m.origin().expect("a place").to_string()).collect();
    assert!(places[0].ends_with("default.toml:2:10"), "{error}");
    assert!(places[1].contains("test.toml:2:1"), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let dir = files(&[]);
    std::fs::create_dir(dir.path().join("default.toml")).unwrap();
    let error = in_dir(&dir, "test").build().unwrap_err();
    assert!(error.message().contains("default.toml"), "{error}");
    assert!(error.source().is_some());

    let dir = files(&[]);
    write(dir.path(), "default.toml", b"[service]\nname = \"\xff\"");
    let error = in_dir(&dir, "test").build().unwrap_err();
    assert_eq!((error.line(), error.column()), (Some(2), Some(9)));
}

#[test]
fn an_environment_that_is_no_file_name_is_refused() {
    for name in ["../etc/passwd", "", ".", "..", "a/b", "-x", "a b", &"x".repeat(129)] {
        assert!(alone().environment(name).build().is_err(), "{name}");
    }
    let error = Config::builder().env_vars([("MESHWORK_ENV", "a/b")]).build().unwrap_err();
    assert_eq!(error.variable(), Some("MESHWORK_ENV"));
}

#[test]
fn a_directory_that_does_not_exist_is_refused_when_a_variable_names_it() {
    let error =
        Config::builder().env_vars([("MESHWORK_CONFIG_DIR", "no/such/directory")]).build().unwrap_err();
    assert_eq!(error.variable(), Some("MESHWORK_CONFIG_DIR"));
}

#[test]
fn others_can_raise_errors_about_a_key() {
    let config = code("[service]\nname = \"..\"").unwrap();
    let error = config.error("service.name", "`..` is no name\nuse letters");
    assert_eq!(
        error.to_string(),
        "code:2:8: invalid `service.name`: `..` is no name\n   |\n 2 | name = \"..\"\n   |        ^^^^ use letters"
    );
}
