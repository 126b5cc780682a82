use serde_json::{Value, json};

use super::*;
use crate::{config::ConsulConfig, rows};

fn reader(params: &[(&str, &str)]) -> Reader {
    let service = ServiceName::new("users").unwrap();
    let mut query = meshwork_core::Query::new(service.clone());
    for (name, value) in params {
        query = query.with(*name, *value);
    }
    let asked = Asked::of(&query, &ConsulConfig::default(), "prod").unwrap();
    Reader::new(Arc::new(asked), service, "users".to_owned(), false, true)
}

fn native_row(id: &str, node: &str, modified: u64, checks: Value) -> Value {
    let service = ServiceName::new("users").unwrap();
    let mut instance = Instance::with_id(service, InstanceId::new(id).unwrap());
    instance.endpoints.push("grpc://10.0.0.1:90".parse().unwrap());
    instance.env = "prod".into();
    json!({
        "Node": { "Node": node, "Address": "10.0.0.9" },
        "Service": { "ID": id, "Service": "users", "Port": 90, "Meta": meta::of(&instance).unwrap(), "ModifyIndex": modified,
                     "TaggedAddresses": { "wan": { "Address": "198.51.100.7", "Port": 1 } } },
        "Checks": checks,
    })
}

fn foreign_row(id: &str, service: Value) -> Value {
    let mut row = json!({ "Node": { "Node": "n", "Address": "10.0.0.9" }, "Checks": [],
        "Service": { "ID": id, "Service": "users", "Port": 80, "Address": "" } });
    for (key, value) in service.as_object().unwrap() {
        row["Service"][key] = value.clone();
    }
    row
}

fn read(reader: &mut Reader, answer: Vec<Value>) -> Reading {
    reader.read(rows::parse(Value::Array(answer).to_string().as_bytes(), "testing").unwrap()).0
}

fn ids(reading: &Reading) -> Vec<&str> {
    reading.found.iter().map(|found| found.instance.id.as_str()).collect()
}

fn critical(id: &str) -> Value {
    json!([{ "CheckID": id, "Status": "critical" }])
}

#[test]
fn critical_is_out_warning_is_a_choice_and_maintenance_is_unready() {
    let mut reader = reader(&[]);
    let warning = json!([{ "CheckID": "x", "Status": "warning" }]);
    let answer = || {
        vec![
            native_row("a", "n", 1, json!(null)),
            native_row("b", "n", 1, critical("b:ttl")),
            native_row("c", "n", 1, warning.clone()),
            native_row("d", "n", 1, critical("_service_maintenance:d")),
            native_row("e", "n", 1, critical("_node_maintenance")),
        ]
    };
    let reading = read(&mut reader, answer());
    assert_eq!(ids(&reading), ["a", "c", "d", "e"]);
    let usable: Vec<bool> = reading.found.iter().map(Found::is_usable).collect();
    assert_eq!(usable, [true, true, false, false]);
    reader.use_warning = false;
    assert_eq!(ids(&read(&mut reader, answer())), ["a", "d", "e"]);
}

#[test]
fn leaving_is_told_though_the_checks_are_critical() {
    let mut row = native_row("a", "n", 1, critical("a:ttl"));
    row["Service"]["Meta"]["meshwork-status"] = json!("leaving");
    let reading = read(&mut reader(&[]), vec![row]);
    assert_eq!(reading.found[0].instance.status, Status::Leaving);
}

#[test]
fn natives_of_other_services_and_environments_are_passed_over() {
    let mut other_service = native_row("a", "n", 1, json!(null));
    other_service["Service"]["Meta"][meta::SERVICE] = json!("us.ers");
    let mut other_env = native_row("b", "n", 1, json!(null));
    other_env["Service"]["Meta"]["meshwork-env"] = json!("dev");
    let reading = read(&mut reader(&[]), vec![other_service, other_env]);
    assert_eq!(reading, Reading::default());
}

#[test]
fn a_bad_record_is_refused_with_its_id_and_spoils_nothing() {
    let mut reader = reader(&[]);
    read(&mut reader, vec![native_row("a", "n", 1, json!(null)), native_row("b", "n", 1, json!(null))]);
    let mut bad = native_row("a", "n", 2, json!(null));
    bad["Service"]["Meta"]["meshwork-weight"] = json!("heavy");
    let mut unread = native_row("b", "n", 2, json!(null));
    unread["Service"]["Port"] = json!("x");
    let reading = read(&mut reader, vec![bad, unread, native_row("c", "n", 1, json!(null))]);
    assert_eq!(ids(&reading), ["c"]);
    let refused: Vec<_> =
        reading.refused.iter().map(|r| (r.id.as_ref().map(InstanceId::as_str), &*r.record)).collect();
    assert_eq!(refused, [(Some("a"), "n/a"), (Some("b"), "n/b")]);
}

#[test]
fn a_row_that_stays_unreadable_keeps_the_id_of_its_last_good_record() {
    let mut reader = reader(&[]);
    read(&mut reader, vec![native_row("a", "n", 1, json!(null))]);
    let mut bad = native_row("a", "n", 2, json!(null));
    bad["Service"]["Port"] = json!("x");
    for _ in 0..3 {
        let reading = read(&mut reader, vec![bad.clone()]);
        assert_eq!(reading.refused[0].id.as_ref().map(InstanceId::as_str), Some("a"));
    }
    let reading = read(&mut reader, vec![native_row("a", "n", 3, json!(null))]);
    assert_eq!((ids(&reading), reading.refused.len()), (vec!["a"], 0));
}

#[test]
fn who_is_missing_is_noticed_whatever_his_health_was() {
    let mut reader = reader(&[]);
    let mut lists_less =
        |answer: Vec<Value>| reader.read(rows::parse(json!(answer).to_string().as_bytes(), "x").unwrap()).1;
    let (good, bad) = (native_row("a", "n", 1, json!(null)), native_row("b", "n", 1, critical("b:ttl")));
    assert!(!lists_less(vec![good.clone(), bad]));
    assert!(!lists_less(vec![good.clone(), native_row("b", "n", 2, json!(null))]));
    assert!(lists_less(vec![good.clone()]));
    assert!(!lists_less(vec![good]));
    assert!(lists_less(Vec::new()));
}

#[test]
fn of_one_id_on_two_agents_the_healthier_then_the_later_is_taken() {
    let mut reader = reader(&[]);
    let warning = json!([{ "CheckID": "x", "Status": "warning" }]);
    let rows = vec![
        native_row("a", "n1", 9, warning),
        native_row("a", "n2", 3, json!(null)),
        native_row("a", "n3", 5, json!(null)),
    ];
    let reading = read(&mut reader, rows);
    assert_eq!((ids(&reading), reading.found[0].modified), (vec!["a"], 5));
}

#[test]
fn unchanged_rows_are_not_decoded_again() {
    let mut reader = reader(&[]);
    let first = read(&mut reader, vec![native_row("a", "n", 1, json!(null))]);
    let second = read(&mut reader, vec![native_row("a", "n", 1, json!(null))]);
    assert!(Arc::ptr_eq(&first.found[0].instance, &second.found[0].instance));
    assert_eq!(first, second);
}

#[test]
fn foreign_instances_get_sensible_defaults() {
    let mut reader = reader(&[]);
    let reading = read(
        &mut reader,
        vec![
            foreign_row("plain", json!({})),
            foreign_row(
                "named",
                json!({ "Address": "db.internal", "Port": 90, "Tags": ["v2", "grpc"],
                "Meta": { "version": "1.2", "zone": "z1", "team": "core" } }),
            ),
            foreign_row("spring", json!({ "Address": "10.0.0.3", "Meta": { "gRPC_port": "9090" } })),
            foreign_row(
                "six",
                json!({ "Address": "fd00::1", "Meta": { "protocol": "HTTPS" }, "Service": "Users" }),
            ),
            foreign_row("nowhere", json!({ "Port": 0 })),
            foreign_row("bad", json!({ "Address": "0.0.0.0" })),
        ],
    );
    assert_eq!(ids(&reading), ["named.n", "plain.n", "six.n", "spring.n"]);
    let endpoints: Vec<String> = reading
        .found
        .iter()
        .map(|f| f.instance.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        endpoints,
        [
            "grpc://db.internal:90",
            "http://10.0.0.9:80",
            "https://[fd00::1]:80",
            "http://10.0.0.3:80 grpc://10.0.0.3:9090"
        ]
    );
    let named = &reading.found[0].instance;
    assert_eq!((&*named.app_version, &*named.zone, named.origin), ("1.2", "z1", Origin::Foreign));
    assert_eq!((named.labels.get("team"), named.labels.get("tags")), (Some("core"), Some("v2,grpc")));
    let refused: Vec<&str> = reading.refused.iter().map(|r| &*r.record).collect();
    assert_eq!(refused, ["n/nowhere", "n/bad"]);
}

#[test]
fn the_protocol_of_the_query_goes_before_what_foreign_instances_say() {
    let reading = read(&mut reader_with_grpc(), vec![foreign_row("a", json!({ "Tags": ["http"] }))]);
    assert_eq!(reading.found[0].instance.endpoints[0].to_string(), "grpc://10.0.0.9:80");
}

fn reader_with_grpc() -> Reader {
    reader(&[("protocol", "grpc")])
}

#[test]
fn foreign_weights_keep_their_ratio_within_ten_medians() {
    let mut reader = reader(&[]);
    let row =
        |id: &str, passing: u32| foreign_row(id, json!({ "Weights": { "Passing": passing, "Warning": 0 } }));
    let weights = |reading: &Reading| set(&reading.found).iter().map(|i| i.weight).collect::<Vec<_>>();
    let one = read(&mut reader, vec![row("a", 1), row("b", 1), native_row("z", "n", 1, json!(null))]);
    assert_eq!(weights(&one), [100, 100, 100]);
    let mixed =
        read(&mut reader, vec![row("a", 50), row("b", 50), row("c", 65_535), row("d", 25), row("e", 60)]);
    assert_eq!(weights(&mixed), [100, 100, 1000, 50, 120]);
    let mut warned = row("w", 7);
    warned["Checks"] = json!([{ "CheckID": "x", "Status": "warning" }]);
    assert_eq!(weights(&read(&mut reader, vec![row("a", 7), warned])), [100, 0]);
}

#[test]
fn addresses_of_other_datacenters_are_the_wide_ones() {
    let mut reader = reader(&[]);
    reader.is_remote = true;
    let foreign =
        foreign_row("f", json!({ "TaggedAddresses": { "wan": { "Address": "203.0.113.5", "Port": 8080 } } }));
    let reading = read(&mut reader, vec![native_row("a", "n", 1, json!(null)), foreign]);
    assert_eq!(reading.found[0].instance.endpoints[0].to_string(), "grpc://198.51.100.7:90");
    assert_eq!(reading.found[1].instance.endpoints[0].to_string(), "http://203.0.113.5:8080");
}
