//! Every key of the schema can be set by its variable.

use crate::{alone, refused};

/// Each key with `users` for a client's name, a value for its variable and, where another key must change with it, that too.
const KEYS: &[(&str, &str)] = &[
    ("service.name", "123"),
    ("service.http", "0.0.0.0:8080"),
    ("service.grpc", "[::]:9090"),
    ("service.env", "stage"),
    ("service.region", "eu"),
    ("service.zone", "zone1"),
    ("service.deployment", "blue"),
    ("service.weight", "50"),
    ("service.labels", "{ team = \"core\" }"),
    ("service.advertise", "{ port = 80 }"),
    ("service.edge", "true"),
    ("service.version", "1.0"),
    ("service.start_timeout", "5s"),
    ("service.tls", "{ cert_file = \"tls.pem\" }"),
    ("service.tls.cert_file", "tls.pem"),
    ("service.tls.key_file", "tls.key"),
    ("service.tls.client_ca_file", "clients.pem"),
    ("service.tls.client_auth", "optional"),
    ("service.reflection", "true"),
    ("service.handover", "/run/orders/handover.sock"),
    ("service.readiness", "{ on_loss = \"keep\" }"),
    ("service.readiness.on_loss", "withdraw"),
    ("service.readiness.loss_delay", "0s"),
    ("service.readiness.return_delay", "5s"),
    ("service.notices", "{ delay = \"5s\" }"),
    ("service.notices.webhook", "https://hooks.internal/s3cr3t"),
    ("service.notices.webhook_timeout", "5s"),
    ("service.notices.delay", "0s"),
    ("service.advertise.host", "orders.local"),
    ("service.advertise.ip", "10.0.0.1"),
    ("service.advertise.interface", "eth0"),
    ("service.advertise.env", "POD_IP"),
    ("service.advertise.prefer", "ipv6"),
    ("service.advertise.port", "80"),
    ("service.advertise.allow_loopback", "true"),
    ("service.advertise.recheck", "0s"),
    ("server.max_connections", "5"),
    ("server.header_read_timeout", "5s"),
    ("server.first_request_timeout", "5s"),
    ("server.max_headers_bytes", "9000"),
    ("server.max_concurrent_streams", "5"),
    ("server.max_body_bytes", "5"),
    ("server.max_deadline", "5s"),
    ("server.default_deadline", "5s"),
    ("server.keep_alive_interval", "5s"),
    ("server.keep_alive_timeout", "5s"),
    ("server.idle_timeout", "5s"),
    ("server.body_idle_timeout", "5s"),
    ("server.max_connection_age", "30m"),
    ("server.max_stream_age", "30m"),
    ("server.max_cancelled_requests", "5"),
    ("server.max_concurrent_requests", "5"),
    ("server.shed", "{ enabled = true }"),
    ("server.shed.enabled", "true"),
    ("server.shed.initial", "50"),
    ("server.shed.least", "5"),
    ("server.shed.most", "50"),
    ("server.shed.window", "20ms"),
    ("server.shed.look", "9s"),
    ("server.shed.critical_share", "0.5"),
    ("server.shed.critical_least", "5"),
    ("server.shed.reserved_share", "0.5"),
    ("server.critical_from", "[\"10.0.0.0/8\"]"),
    ("server.critical_identities", "[\"spiffe://td/prod/orders\"]"),
    ("drain.settle", "5s"),
    ("drain.flush", "1s"),
    ("drain.deadline", "30s"),
    ("client.users.timeout", "5s"),
    ("client.users.attempt_timeout", "5s"),
    ("client.users.connect_timeout", "5s"),
    ("client.users.balance", "ring-hash"),
    ("client.users.hash_header", "x-user-id"),
    ("client.users.hash_bound", "1.5"),
    ("client.users.choices", "3"),
    ("client.users.zone_aware", "true"),
    ("client.users.zone_skew", "1.5"),
    ("client.users.subsets", "{ canary = { version = \"2\", share = 0.1, fallback = \"strict\" } }"),
    ("client.users.aperture", "20"),
    ("client.users.limit", "{ concurrency = 5 }"),
    ("client.users.limit.concurrency", "5"),
    ("client.users.limit.rate", "5"),
    ("client.users.limit.burst", "5"),
    ("client.users.limit.queue", "5"),
    ("client.users.limit.longest_wait", "0s"),
    ("client.users.hedge", "true"),
    ("client.users.max_connections", "2"),
    ("client.users.max_age", "30m"),
    ("client.users.idle", "0s"),
    ("client.users.tls", "{ ca_file = \"ca.pem\" }"),
    ("client.users.tls.ca_file", "ca.pem"),
    ("client.users.tls.platform_roots", "true"),
    ("client.users.tls.server_name", "users.internal"),
    ("client.users.retry", "{ attempts = 3 }"),
    ("client.users.eager", "true"),
    ("client.users.scheme", "grpc"),
    ("client.users.methods", "{ \"users.v1.Users/GetUser\" = { timeout = \"300ms\", idempotent = true } }"),
    ("client.users.retry.attempts", "3"),
    ("client.users.retry.budget", "0.5"),
    ("client.default.timeout", "5s"),
    ("registry.use", "memory"),
    ("registry.start_timeout", "5s"),
    ("registry.required", "false"),
    ("registry.main", "{ kind = \"etcd\" }"),
    ("registry.main.kind", "etcd"),
];

/// Each key of a method and of a subset, set in a file; a change of it changes the client.
const BELOW_NAMES: &[(&str, &str)] = &[
    ("methods.\"a.B/C\".timeout", "\"5s\""),
    ("methods.\"a.B/C\".attempt_timeout", "\"5s\""),
    ("methods.\"a.B/C\".idempotent", "true"),
    ("methods.\"a.B/C\".retry", "{ attempts = 4 }"),
    ("methods.\"a.B/C\".retry.attempts", "4"),
    ("methods.\"a.B/C\".hedge", "true"),
    ("methods.\"a.B/C\".balance", "\"first\""),
    ("methods.\"a.B/C\".hash_header", "\"x-user-id\""),
    ("methods.\"a.B/C\".limit", "{ rate = 4 }"),
    ("methods.\"a.B/C\".limit.concurrency", "4"),
    ("methods.\"a.B/C\".limit.rate", "4"),
    ("methods.\"a.B/C\".limit.burst", "4"),
    ("methods.\"a.B/C\".limit.queue", "4"),
    ("methods.\"a.B/C\".limit.longest_wait", "\"4s\""),
    ("subsets.blue.version", "\"2\""),
    ("subsets.blue.deployment", "\"canary\""),
    ("subsets.blue.labels", "{ colour = \"blue\" }"),
    ("subsets.blue.share", "0.5"),
    ("subsets.blue.fallback", "\"strict\""),
];

fn variable(key: &str) -> String {
    format!("MESHWORK__{}", key.to_ascii_uppercase().replace('.', "__"))
}

#[test]
fn every_key_can_be_set_by_its_variable() {
    for (key, value) in KEYS {
        let config = alone().env_vars([(variable(key), *value)]).build();
        let config = config.unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_eq!(config.origin(key).to_string(), variable(key));
    }
}

#[test]
fn every_key_set_by_its_variable_changes_its_section() {
    let plain = alone().build().unwrap();
    for (key, value) in KEYS.iter().filter(|(key, value)| *value != "p2c" && !key.contains("default.t")) {
        let config = alone().env_vars([(variable(key), *value)]).build().unwrap();
        let changed = match key.split('.').next().unwrap() {
            "service" => config.service() != plain.service(),
            "server" => config.server() != plain.server(),
            "drain" => config.drain() != plain.drain(),
            "client" => config.client("users") != plain.client("users"),
            _ => format!("{:?}", config.registry()) != format!("{:?}", plain.registry()),
        };
        assert!(changed, "{key}");
    }
}

#[test]
fn every_key_below_a_name_changes_the_client_and_tells_its_place() {
    let base =
        "[client.users.methods.\"a.B/C\"]\n[client.users.subsets.blue]\nlabels = { colour = \"green\" }\n";
    let plain = alone().code(base).build().unwrap();
    for (key, value) in BELOW_NAMES {
        let key = format!("client.users.{key}");
        let config = alone().code(base).code(format!("{key} = {value}")).build();
        let config = config.unwrap_or_else(|error| panic!("{key}: {error}"));
        assert!(config.client("users") != plain.client("users"), "{key}");
        assert_ne!(config.origin(&key).to_string(), plain.origin(&key).to_string(), "{key}");
        assert_eq!(config.client("others"), plain.client("others"), "{key}");
    }
}

#[test]
fn the_table_of_keys_below_names_holds_every_one() {
    for (section, named) in [
        ("methods.\"a.B/C\"", "methods.\"a.B/C\""),
        ("methods.\"a.B/C\".retry", "methods.\"a.B/C\".retry"),
        ("methods.\"a.B/C\".limit", "methods.\"a.B/C\".limit"),
        ("subsets.blue", "subsets.blue"),
    ] {
        let error = refused(&format!("[client.users.{section}]\nqqqqqqqqqqqq = 1"));
        let hint = error.hint().unwrap();
        for key in hint.split('`').skip(1).step_by(2) {
            let path = format!("{named}.{key}");
            assert!(BELOW_NAMES.iter().any(|(known, _)| *known == path), "{path} has no row");
        }
    }
}

#[test]
fn a_subset_of_the_default_holds_for_every_client_and_is_changed_key_by_key() {
    let toml = "[client.default.subsets.blue]\ndeployment = \"blue\"\nshare = 0.1\n\
                [client.users.subsets.blue]\ndeployment = \"blue\"\nshare = 0.2\n";
    let config = alone().code(toml).build().unwrap();
    let share = |service: &str| config.client(service).subsets["blue"].share;
    assert_eq!((share("users"), share("others")), (0.2, 0.1));
}

/// The schema names its keys itself, in the hint about a key like no other.
#[test]
fn the_table_above_holds_every_key() {
    for (section, named) in [
        ("service", "service"),
        ("service.advertise", "service.advertise"),
        ("server", "server"),
        ("server.shed", "server.shed"),
        ("drain", "drain"),
        ("client.users", "client.users"),
        ("client.users.retry", "client.users.retry"),
        ("client.users.limit", "client.users.limit"),
        ("registry", "registry"),
    ] {
        let error = refused(&format!("[{section}]\nqqqqqqqqqqqq = 1"));
        let hint = error.hint().unwrap();
        let keys: Vec<_> = hint.split('`').skip(1).step_by(2).collect();
        assert!(keys.len() >= 2, "{hint}");
        for key in keys {
            let path = format!("{named}.{key}");
            assert!(KEYS.iter().any(|(known, _)| *known == path), "{path} has no row");
        }
    }
}
