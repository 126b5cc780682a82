//! What an author reads after each mistake: the text must name the place and the way out.

use meshwork::{App, RunError};
use meshwork_tests::{SERVICE, provider::Plan};

use super::rig::{Running, actor, app, ended, unnamed, users};

/// What `serve` says of an app that cannot start.
async fn refusal(app: App) -> (u8, String) {
    let error: RunError = Running::launch(users(app, "Ada")).ended().await.expect_err("it cannot start");
    (error.code(), format!("{error:?}"))
}

async fn refused(config: &str, parts: &[&str]) {
    let (code, said) = refusal(unnamed().with_config(config)).await;
    assert_eq!(code, 2, "{config}: {said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in what is said of {config:?}:\n{said}");
    }
}

#[tokio::test]
async fn an_unknown_key_is_answered_with_the_nearest() {
    refused("[drain]\nsetle = \"1s\"", &["unknown key `drain.setle`", "did you mean `settle`?"]).await;
    refused("[client.users]\ntimout = \"1s\"", &["`client.users.timout`", "did you mean `timeout`?"]).await;
    refused("[sevice]\nzone = \"a\"", &["`sevice`", "did you mean `service`?"]).await;
}

#[tokio::test]
async fn a_value_of_the_wrong_type_is_shown_with_what_would_do() {
    refused("[service]\nweight = \"5\"", &["`service.weight` must be a whole number from 0 to 65535"]).await;
    refused("[service]\nweight = -1", &["`service.weight`", "not -1"]).await;
}

#[tokio::test]
async fn an_invalid_duration_shows_valid_ones() {
    refused("[drain]\nsettle = \"soon\"", &["invalid `drain.settle`", "\"300ms\", \"3s\", \"1m\""]).await;
    refused("[drain]\nsettle = 5", &["`5` has no unit"]).await;
    let deadline = "[drain]\nsettle = \"3s\"\ndeadline = \"3s\"";
    refused(deadline, &["`drain.deadline`", "make the deadline 4s or more"]).await;
}

#[tokio::test]
async fn a_use_that_names_no_table_lists_what_there_is() {
    let config = "[registry]\nuse = \"etdc\"\n[registry.etcd]\nendpoints = [\"http://127.0.0.1:1\"]";
    refused(config, &["`registry.use` names `etdc`", "did you mean `etcd`?", "tables: `etcd`"]).await;
    refused("[registry]\nuse = \"nowhere\"", &["no table `[registry.nowhere]`", "there is no table"]).await;
}

#[tokio::test]
async fn a_dual_of_itself_is_refused() {
    let config = "[registry]\nuse = \"both\"\n\
                  [registry.both]\nkind = \"dual\"\nprimary = \"both\"\nsecondary = \"local\"";
    refused(config, &["`registry.both.primary`", "names its own table `[registry.both]`"]).await;
}

#[tokio::test]
async fn a_kind_that_nobody_knows_is_refused() {
    let config = "[registry]\nuse = \"team\"\n[registry.team]\nkind = \"zookeper\"";
    refused(config, &["zookeper", "etcd", "local"]).await;
    // Wherever it stands, used or not.
    let config = "[registry]\nuse = \"local\"\n[registry.both]\nkind = \"daul\"";
    refused(config, &["code:4:8", "`registry.both` is of an unknown kind `daul`", "did you mean `dual`?"])
        .await;
}

/// A dual of two stores in memory, with these lines more in its table.
fn dual(more: &str) -> String {
    format!(
        "[registry]\nuse = \"both\"\n[registry.a]\nkind = \"memory\"\n[registry.b]\nkind = \"memory\"\n\
         [registry.both]\nkind = \"dual\"\n{more}"
    )
}

#[tokio::test]
async fn a_mistake_in_a_dual_is_shown_where_it_stands() {
    let sides = "primary = \"a\"\nsecondary = \"b\"\n";
    for (more, parts) in [
        (
            "primary = \"a\"\nsecondary = \"a\"",
            ["code:10:13", "`registry.both.secondary`", "the same registry as `primary`"],
        ),
        (
            "primary = \"a\"\nsecondary = \"c\"",
            ["code:10:13", "`registry.both.secondary` names `c`", "tables: `a`, `b`, `both`"],
        ),
        (
            "primary = \"a\"",
            ["code:7:11", "missing key `registry.both.secondary`", "MESHWORK__REGISTRY__BOTH__SECONDARY"],
        ),
        (
            &format!("{sides}wirte = \"both\""),
            ["code:11:1", "`registry.both.wirte`", "did you mean `write`?"],
        ),
        (
            &format!("{sides}write = \"bth\""),
            ["code:11:9", "`registry.both.write` cannot be \"bth\"", "did you mean \"both\"?"],
        ),
        (
            &format!("{sides}read = \"both\""),
            ["code:11:8", "`registry.both.read`", "`primary-then-secondary`"],
        ),
        (&format!("{sides}start = \"al\""), ["code:11:9", "`registry.both.start`", "did you mean \"all\"?"]),
    ] {
        refused(&dual(more), &parts).await;
    }
}

#[tokio::test]
async fn a_mistake_in_a_split_is_shown_where_it_stands() {
    let split = |more: &str| {
        format!(
            "[registry]\nuse = \"team\"\n[registry.a]\nkind = \"memory\"\n[registry.team]\nkind = \"split\"\n{more}"
        )
    };
    for (more, parts) in [
        ("default = \"c\"", ["code:7:11", "`registry.team.default` names `c`", "tables: `a`, `team`"]),
        (
            "default = \"a\"\nroutes = { x = \"ab\" }",
            ["code:8:16", "`registry.team.routes.x` names `ab`", "did you mean `a`?"],
        ),
        ("default = \"a\"\nroutes = { \"x*y\" = \"a\" }", ["code:8:20", "route `x*y`", "not at the end"]),
        ("default = \"a\"\nroutes = { \"*\" = \"a\" }", ["code:8:18", "route `*`", "`default`"]),
        ("routes = { x = \"a\" }", ["code:5:11", "missing key `registry.team.default`", "MESHWORK__"]),
        (
            "default = \"a\"\nroute = { x = \"a\" }",
            ["code:8:1", "`registry.team.route`", "did you mean `routes`?"],
        ),
        ("default = \"team\"", ["code:7:11", "names its own table", "`registry.team.default`"]),
    ] {
        refused(&split(more), &parts).await;
    }
}

#[tokio::test]
async fn a_table_is_read_with_its_backends_own_keys() {
    let config = "[registry]\nuse = \"etcd\"\n[registry.etcd]\nendpoint = \"http://127.0.0.1:1\"";
    refused(config, &["`registry.etcd.endpoint`", "`endpoints`"]).await;
    let config = "[registry]\nuse = \"etcd\"\n[registry.etcd]\nendpoints = [\"ftp://a:1\"]";
    refused(config, &["ftp://a:1"]).await;
    let config = "[registry]\nuse = \"etcd\"\n[registry.etcd]\nlease_ttl = \"1s\"";
    refused(config, &["lease_ttl", "2s"]).await;
}

#[tokio::test]
async fn production_must_name_its_registry() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Plan::run()
        .env("MESHWORK_ENV", "prod")
        .env("MESHWORK_CONFIG_DIR", dir.path().display().to_string())
        .service("http", "127.0.0.1:0");
    let (code, said) = ended(&plan.launch(actor()).unwrap()).await;
    assert_eq!(code, Some(2), "{said}");
    for part in ["missing key `use` in `[registry]`", "`prod`", "MESHWORK__REGISTRY__USE"] {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[tokio::test]
async fn production_must_say_where_it_listens() {
    let (code, said) = refusal(
        App::new()
            .with_environment("prod")
            .with_config("[service]\nname = \"users\"\n[registry]\nuse = \"none\"\n"),
    )
    .await;
    assert_eq!(code, 2);
    assert!(said.contains("service.http") && said.contains("no address to listen on"), "{said}");
}

#[tokio::test]
async fn a_file_is_shown_with_line_column_and_the_place_itself() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[registry]\nuse = \"none\"\n\n[service]\n  nmae = \"orders\"\n";
    std::fs::write(dir.path().join("default.toml"), text).unwrap();
    let plan = Plan::run().env("MESHWORK_CONFIG_DIR", dir.path().display().to_string());
    let (code, said) = ended(&plan.launch(actor()).unwrap()).await;
    assert_eq!(code, Some(2), "{said}");
    for part in ["default.toml:5:3", "unknown key `service.nmae`", "nmae = …", "^^^^ did you mean `name`?"]
    {
        assert!(said.contains(part), "`{part}` is not in:\n{said}");
    }
}

#[tokio::test]
async fn names_outside_the_rules_are_refused_wherever_they_come_from() {
    let long = "x".repeat(129);
    for name in ["..", ".", "-x", "a/b", "", "a b", &long] {
        let config = format!("[registry]\nuse = \"none\"\n[service]\nname = {name:?}");
        let app = App::new().with_environment("test").with_config(config);
        let (code, said) = refusal(app).await;
        assert_eq!(code, 2, "{name}: {said}");
        assert!(said.contains("service.name"), "{name}: {said}");
    }
    for name in ["..", "-x", &long] {
        let app = app(SERVICE).with_config("[registry]\nuse = \"local\"\n");
        let channel = app.channel(name);
        assert!(channel.get("/").send().await.is_err());
        let (code, said) = refusal(app).await;
        assert_eq!(code, 2, "{name}: {said}");
    }
}

#[tokio::test]
async fn a_registry_set_too_late_is_refused() {
    let late = app(SERVICE).with_config("[registry]\nuse = \"local\"\n");
    let _channel = late.channel("payments");
    let (code, said) = refusal(late.with_registry(meshwork::Memory::new())).await;
    assert_eq!(code, 2);
    assert!(said.contains("`with_registry` must come before"), "{said}");
}

#[tokio::test]
async fn a_wildcard_cannot_be_told_to_others() {
    let config = "[service]\nhttp = \"0.0.0.0:0\"\n[service.advertise]\nip = \"127.0.0.1\"\n";
    refused(config, &["service.advertise.ip", "loopback"]).await;
    let config = "[service]\nhttp = \"0.0.0.0:0\"\n[service.advertise]\ninterface = \"nosuch0\"\n";
    refused(config, &["`service.advertise.interface` is `nosuch0`"]).await;
    let config = "[service.advertise]\nip = \"0.0.0.0\"\n";
    refused(config, &["`service.advertise.ip`", "a wildcard"]).await;
}

#[tokio::test]
async fn a_target_that_cannot_be_opened_is_told_by_the_call_and_by_serve() {
    for target in ["k8s://shop/users:80", "direct:///", "nonsense://x/y"] {
        let app = app(SERVICE).with_config("[registry]\nuse = \"none\"\n");
        let error = app.channel(target).get("/").send().await.unwrap_err();
        let (code, said) = refusal(app).await;
        assert_eq!(code, 2, "{target}: {said}");
        assert!(!error.to_string().is_empty());
    }
}

#[tokio::test]
async fn an_embedded_registry_that_cannot_be_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "a file in its place").unwrap();
    let plan = Plan::run().local(&file).config("registry.start_timeout", "1s");
    let (code, said) = ended(&plan.launch(actor()).unwrap()).await;
    assert!(matches!(code, Some(2 | 4)), "{code:?}: {said}");
    assert!(said.contains(&file.display().to_string()), "{said}");
}
