//! What holds for any input: names, endpoints, times, keys and records.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use meshwork_core::{
    AddressRules, Decoded, Decoder, Dialect, Endpoint, Host, Instance, InstanceId, MAX_ENDPOINTS, MAX_LABELS,
    Native, Origin, Priority, Record, Scheme, ServiceName, Status, Timestamp, decode, encode, headers,
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

fn config() -> ProptestConfig {
    ProptestConfig { failure_persistence: None, ..ProptestConfig::default() }
}

fn scheme() -> impl Strategy<Value = Scheme> {
    prop::sample::select(vec![Scheme::Http, Scheme::Https, Scheme::Grpc, Scheme::Grpcs])
}

fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ]
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9][A-Za-z0-9._-]{0,20}"
}

/// Nearly an endpoint, or anything.
fn nearly_an_endpoint() -> impl Strategy<Value = String> {
    prop_oneof![
        "(http|https|grpc|grpcs|ftp|HTTP)?(://|:/)?[\\[\\]a-zA-Z0-9:.%_-]{0,24}(:[0-9+]{0,6})?",
        "\\PC{0,40}",
        any::<String>(),
    ]
}

/// Any JSON, not deep.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        nearly_an_endpoint().prop_map(Value::from),
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,12}Z".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 16, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

/// A record of which a few fields may be anything.
fn record() -> impl Strategy<Value = Value> {
    const FIELDS: [&str; 17] = [
        "schema",
        "service",
        "id",
        "endpoints",
        "env",
        "region",
        "zone",
        "weight",
        "deployment",
        "appVersion",
        "frameVersion",
        "buildTime",
        "startTime",
        "status",
        "overridden",
        "labels",
        "else",
    ];
    let endpoints = vec(prop_oneof![Just("grpc://10.0.0.7:9000".to_owned()), nearly_an_endpoint()], 0..12);
    let labels = prop::collection::btree_map(any::<String>(), any::<String>(), 0..4);
    let weight = prop_oneof![any::<u16>().prop_map(Value::from), any::<f64>().prop_map(Value::from)];
    let good = (name(), name(), endpoints, labels, weight, any::<String>()).prop_map(
        |(service, id, endpoints, labels, weight, zone)| {
            json!({ "schema": 1, "service": service, "id": id, "endpoints": endpoints, "labels": labels,
                    "weight": weight, "zone": zone })
        },
    );
    (good, vec((prop::sample::select(FIELDS.to_vec()), value()), 0..3)).prop_map(|(mut record, wrong)| {
        for (field, value) in wrong {
            record[field] = value;
        }
        record
    })
}

proptest! {
    #![proptest_config(config())]

    // === endpoints ===

    #[test]
    fn an_endpoint_survives_the_way_through_text(scheme in scheme(), ip in ip(), port in 1u16..) {
        let endpoint = Endpoint::new(scheme, Host::Ip(ip), port).unwrap();
        let read: Endpoint = endpoint.to_string().parse().unwrap();
        prop_assert_eq!(&read, &endpoint);
        prop_assert_eq!(read.socket_addr(), Some((ip, port).into()));
    }

    #[test]
    fn any_text_is_an_endpoint_that_reads_the_same_again_or_an_error_fit_for_a_log(text in nearly_an_endpoint()) {
        match text.parse::<Endpoint>() {
            Ok(endpoint) => {
                prop_assert!(endpoint.port() > 0);
                prop_assert_eq!(&endpoint.to_string().parse::<Endpoint>().unwrap(), &endpoint);
                // What is said of its host holds for its address too.
                if let Some(addr) = endpoint.socket_addr() {
                    let rules = AddressRules::default();
                    prop_assert_eq!(rules.objection_to(&endpoint), rules.objection(addr.ip()));
                }
            }
            Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control), "{error:?}"),
        }
    }

    #[test]
    fn an_address_is_judged_alike_in_both_families(bits: u32, allow_loopback: bool) {
        let mut rules = AddressRules::default();
        rules.allow_loopback = allow_loopback;
        let v4 = Ipv4Addr::from(bits);
        prop_assert_eq!(rules.objection(v4.into()), rules.objection(v4.to_ipv6_mapped().into()));
    }

    // === names and words ===

    #[test]
    fn a_name_is_exactly_what_its_grammar_says(text in "[A-Za-z0-9._/ -]{0,130}|\\PC{0,10}") {
        let mut bytes = text.bytes();
        let is_one = bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
            && bytes.all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && text.len() <= 128;
        prop_assert_eq!(ServiceName::new(&text).is_ok(), is_one, "{:?}", text);
        match InstanceId::new(&text) {
            Ok(id) => prop_assert_eq!(id.as_str(), &*text),
            Err(error) => prop_assert!(!error.to_string().chars().any(char::is_control)),
        }
    }

    #[test]
    fn any_word_is_a_priority_that_is_written_alike_or_none(text in "sheddable|normal|critical|\\PC{0,10}") {
        prop_assert!(Priority::parse(&text).is_none_or(|priority| priority.as_str() == text));
    }

    #[test]
    fn any_content_type_is_read(text in "application/(grpc|json)?[+;]?\\PC{0,8}|\\PC{0,20}") {
        prop_assert!(!headers::is_grpc(&text) || text.to_ascii_lowercase().starts_with("application/grpc"));
    }

    // === times ===

    #[test]
    fn a_time_survives_the_way_through_text(millis: u64) {
        let time = Timestamp::from_millis(millis);
        prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
    }

    #[test]
    fn any_text_is_a_time_or_none(text in "[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]{5,12}Z?|\\PC{0,24}") {
        if let Ok(time) = text.parse::<Timestamp>() {
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }
    }

    // === records ===

    #[test]
    fn any_bytes_are_a_record_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn what_is_read_of_a_record_is_in_its_ranges_and_reads_the_same_again(record in record()) {
        let bytes = serde_json::to_vec(&record).unwrap();
        let mut decoder = Decoder::default();
        match decoder.decode(&bytes) {
            Err(refusal) => prop_assert!(!refusal.to_string().is_empty()),
            Ok(instance) => {
                prop_assert!(instance.endpoints.len() <= MAX_ENDPOINTS && instance.labels.len() <= MAX_LABELS);
                prop_assert!(instance.status != Status::Up || !instance.endpoints.is_empty());
                let rules = AddressRules::default();
                prop_assert!(instance.endpoints.iter().all(|endpoint| rules.objection_to(endpoint).is_none()));
                prop_assert!(instance.zone.len() <= 256 && instance.origin == Origin::Native);
                let clamped = decoder.clamped();
                if let Ok(written) = encode(&instance) {
                    let again = decoder.decode(&written).unwrap();
                    prop_assert_eq!(&again, &instance);
                    prop_assert_eq!(decoder.clamped(), clamped, "nothing of it had to be clamped again");
                }
            }
        }
    }

    #[test]
    fn a_record_cut_short_anywhere_is_refused(service in name(), id in name(), cut: prop::sample::Index) {
        let mut instance = Instance::with_id(ServiceName::new(service).unwrap(), InstanceId::new(id).unwrap());
        instance.endpoints.push("grpc://10.0.0.7:9000".parse().unwrap());
        let bytes = encode(&instance).unwrap();
        prop_assert_eq!(decode(&bytes).unwrap(), instance);
        prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
    }

    #[test]
    fn a_key_leads_to_the_instance_that_it_was_written_for_and_to_no_other(
        service in name(), id in name(), env in name(), other in "/?[a-z0-9/._-]{0,60}|\\PC{0,20}",
    ) {
        let native = Native::new("meshwork").unwrap();
        let mut instance = Instance::with_id(ServiceName::new(service).unwrap(), InstanceId::new(id).unwrap());
        instance.endpoints.push("grpc://10.0.0.7:9000".parse().unwrap());
        let written = native.encode(&env, &instance, 1).unwrap();
        let (key, value) = &written[0];
        let read = |key: &str| native.decode(&Record { key, value, lease: None });
        prop_assert!(matches!(read(key), Decoded::Instance(found) if *found == instance));
        prop_assert_eq!(native.id_of(key), Some(instance.id.clone()));
        prop_assert!(key.starts_with(&native.prefix(&env, &instance.service)));
        // Any other key is nobody's, or its record is not taken.
        prop_assert!(other == *key || !matches!(read(&other), Decoded::Instance(_)));
        let _any = native.id_of(&other);
    }
}
