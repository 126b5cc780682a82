//! The metadata of an instance as Meta pairs of a Consul service, and back.
//!
//! Consul takes at most 64 pairs, keys of `[A-Za-z0-9_-]` up to 128 bytes, values up to 512 bytes. Each field
//! has a key of its own that begins with `meshwork-`; labels keep their own keys. What does not fit goes into
//! one JSON object, whose text is split over `meshwork-more-0`, `meshwork-more-1`, … Reading goes through the
//! decoder of all records, so that hostile values are judged here as everywhere.

use std::collections::BTreeMap;

use meshwork_core::{Decoder, Error, Instance, Refusal, RefusalKind, encode};
use serde_json::{Map, Value, json};

/// Says that a service was written by a Meshwork process, and how.
pub(crate) const SCHEMA: &str = "meshwork-schema";
/// The exact name of the service.
pub(crate) const SERVICE: &str = "meshwork-service";

const OURS: &str = "meshwork-";
/// Consul keeps these keys to itself.
const RESERVED: &str = "consul-";
const MORE: &str = "meshwork-more-";
const MAX_PAIRS: usize = 64;
const MAX_KEY: usize = 128;
const MAX_VALUE: usize = 512;
const LABELS: &str = "labels";
/// The longest text that readers of a record take as it is.
const MAX_TEXT: usize = 256;

/// The keys of the fields: in Meta, in the record, and how the value is written.
const FIELDS: [(&str, &str, Form); 14] = [
    (SCHEMA, "schema", Form::Number),
    (SERVICE, "service", Form::Text),
    ("meshwork-endpoints", "endpoints", Form::List),
    ("meshwork-env", "env", Form::Text),
    ("meshwork-region", "region", Form::Text),
    ("meshwork-zone", "zone", Form::Text),
    ("meshwork-weight", "weight", Form::Number),
    ("meshwork-deployment", "deployment", Form::Text),
    ("meshwork-app-version", "appVersion", Form::Text),
    ("meshwork-frame-version", "frameVersion", Form::Text),
    ("meshwork-build-time", "buildTime", Form::Text),
    ("meshwork-start-time", "startTime", Form::Text),
    ("meshwork-status", "status", Form::Text),
    ("meshwork-overridden", "overridden", Form::List),
];

/// Meta pairs of a service.
pub(crate) type Meta = BTreeMap<String, String>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Number,
    /// Texts without blanks, separated by blanks.
    List,
}

impl Form {
    fn write(self, value: &Value) -> Option<String> {
        match self {
            Self::Text => value.as_str().map(str::to_owned),
            Self::Number => Some(value.to_string()),
            Self::List => {
                let parts: Vec<&str> = value.as_array()?.iter().filter_map(Value::as_str).collect();
                parts.iter().all(|part| !part.is_empty() && !part.contains(' ')).then(|| parts.join(" "))
            }
        }
    }

    fn read(self, text: &str) -> Value {
        match self {
            Self::Text => json!(text),
            // What is no number stays a text, which the decoder refuses as the wrong type.
            Self::Number => text.parse::<serde_json::Number>().map_or_else(|_| json!(text), Value::Number),
            Self::List => json!(text.split(' ').filter(|part| !part.is_empty()).collect::<Vec<_>>()),
        }
    }
}

/// The Meta of an instance.
///
/// # Errors
/// `Invalid` when the instance cannot be written so that readers take it as it is; it names the key.
pub(crate) fn of(instance: &Instance) -> Result<Meta, Error> {
    let invalid = || Error::invalid(format!("announcing `{}`", instance.id));
    fits(instance).map_err(|detail| invalid().with_source(detail))?;
    let bytes = encode(instance).map_err(|refusal| {
        let largest = instance.labels.iter().max_by_key(|(key, value)| key.len() + value.len());
        let hint = largest.map(|(key, _)| format!(" (its largest label is `{}`)", key.escape_debug()));
        invalid().with_source(format!("{refusal}{}", hint.unwrap_or_default()))
    })?;
    let Ok(Value::Object(mut record)) = serde_json::from_slice(&bytes) else {
        return Err(invalid());
    };
    // It is the service's own id.
    record.remove("id");
    let mut labels = match record.remove(LABELS) {
        Some(Value::Object(labels)) => labels,
        _ => Map::new(),
    };
    let (mut meta, mut more) = (Meta::new(), Map::new());
    for (key, field, form) in FIELDS {
        let Some(value) = record.remove(field) else { continue };
        match form.write(&value).filter(|text| text.len() <= MAX_VALUE) {
            Some(text) => drop(meta.insert(key.to_owned(), text)),
            None => drop(more.insert(field.to_owned(), value)),
        }
    }
    let mut own = Vec::new();
    labels.retain(|key, value| {
        let fits = value.as_str().filter(|text| is_key(key) && text.len() <= MAX_VALUE);
        own.extend(fits.map(|text| (key.clone(), text.to_owned())));
        fits.is_none()
    });
    // The last labels give way until everything has room; 16 KiB of record always have.
    loop {
        let mut rest = more.clone();
        if !labels.is_empty() {
            rest.insert(LABELS.to_owned(), Value::Object(labels.clone()));
        }
        let pieces = if rest.is_empty() { Vec::new() } else { split(&Value::Object(rest).to_string()) };
        if meta.len() + own.len() + pieces.len() <= MAX_PAIRS {
            meta.extend(own);
            meta.extend(pieces.into_iter().enumerate().map(|(n, piece)| (format!("{MORE}{n}"), piece)));
            return Ok(meta);
        }
        let Some((key, value)) = own.pop() else {
            let text = format!("labels are larger than {MAX_PAIRS} Meta pairs of {MAX_VALUE} bytes");
            return Err(invalid().with_source(text));
        };
        labels.insert(key, json!(value));
    }
}

/// Refuses what readers would cut without a word.
fn fits(instance: &Instance) -> Result<(), String> {
    let is_long = |text: &str| text.len() > MAX_TEXT;
    for (key, value) in instance.labels.iter() {
        let what = if is_long(key) { "key" } else { "value" };
        let length = if is_long(key) { key.len() } else { value.len() };
        if length > MAX_TEXT {
            let shown: String = key.chars().take(64).flat_map(char::escape_debug).collect();
            return Err(format!("the {what} of label `{shown}` has {length} bytes, {MAX_TEXT} at most"));
        }
    }
    let fields = [
        ("env", &instance.env),
        ("region", &instance.region),
        ("zone", &instance.zone),
        ("deployment", &instance.deployment),
        ("app_version", &instance.app_version),
    ];
    match fields.into_iter().find(|(_, text)| is_long(text)) {
        Some((field, text)) => Err(format!("`{field}` has {} bytes, {MAX_TEXT} at most", text.len())),
        None => Ok(()),
    }
}

/// Whether a label may keep its key.
fn is_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= MAX_KEY
        && !key.starts_with(OURS)
        && !key.starts_with(RESERVED)
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

fn split(text: &str) -> Vec<String> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while !rest.is_empty() {
        let mut end = rest.len().min(MAX_VALUE);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        let (piece, tail) = rest.split_at(end);
        pieces.push(piece.to_owned());
        rest = tail;
    }
    pieces
}

/// Whether a service with this Meta was written by a Meshwork process.
pub(crate) fn is_native(meta: &Meta) -> bool {
    meta.contains_key(SCHEMA)
}

/// The instance of a native service.
///
/// # Errors
/// A [`Refusal`] as for every record.
pub(crate) fn decode(id: &str, meta: &Meta, decoder: &mut Decoder) -> Result<Instance, Refusal> {
    let syntax = |detail: String| Refusal::new(RefusalKind::Syntax, detail);
    let mut record = Map::new();
    let text: String = (0..).map_while(|n| meta.get(&format!("{MORE}{n}")).map(String::as_str)).collect();
    if !text.is_empty() {
        record =
            serde_json::from_str(&text).map_err(|e| syntax(format!("`{MORE}*` is no JSON object: {e}")))?;
    }
    record.insert("id".to_owned(), json!(id));
    for (key, field, form) in FIELDS {
        if let Some(text) = meta.get(key) {
            record.insert(field.to_owned(), form.read(text));
        }
    }
    let own = meta.iter().filter(|(key, _)| !key.starts_with(OURS) && !key.starts_with(RESERVED));
    let own: Vec<(String, Value)> = own.map(|(key, value)| (key.clone(), json!(value))).collect();
    if !own.is_empty() {
        let labels = record.entry(LABELS).or_insert_with(|| json!({}));
        let Value::Object(labels) = labels else {
            return Err(syntax(format!("`{LABELS}` in `{MORE}*` is no object")));
        };
        labels.extend(own);
    }
    decoder.decode(Value::Object(record).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use meshwork_core::{InstanceId, ServiceName, Status, Timestamp};

    use super::*;

    fn user() -> Instance {
        let id = InstanceId::new("users-1").unwrap();
        let mut instance = Instance::with_id(ServiceName::new("users.v1").unwrap(), id);
        instance.endpoints =
            vec!["http://10.0.0.1:80".parse().unwrap(), "grpc://[fd00::1]:90".parse().unwrap()];
        instance
    }

    fn survives(instance: &Instance) -> Meta {
        let meta = of(instance).unwrap();
        assert!(meta.len() <= MAX_PAIRS, "{} pairs", meta.len());
        for (key, value) in &meta {
            assert!(value.len() <= MAX_VALUE && key.len() <= MAX_KEY, "{key}");
            assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')), "{key}");
        }
        let back = decode(instance.id.as_str(), &meta, &mut Decoder::default()).unwrap();
        assert_eq!(&back, instance);
        meta
    }

    #[test]
    fn every_field_has_its_own_readable_key() {
        let mut instance = user();
        instance.env = "prod".into();
        instance.region = "eu".into();
        instance.zone = "zone1".into();
        instance.weight = 0;
        instance.deployment = "canary".into();
        instance.app_version = "1.2.3".into();
        instance.build_time = Some(Timestamp::from_millis(1_700_000_000_123));
        instance.status = Status::Leaving;
        instance.overridden = vec!["weight".into(), "zone".into()];
        instance.labels.set("team", "core");
        let meta = survives(&instance);
        assert_eq!(meta["meshwork-endpoints"], "http://10.0.0.1:80 grpc://[fd00::1]:90");
        assert_eq!(
            (&*meta["meshwork-weight"], &*meta["meshwork-status"], &*meta["team"]),
            ("0", "leaving", "core")
        );
        assert!(!meta.keys().any(|key| key.starts_with(MORE)));
    }

    #[test]
    fn what_does_not_fit_is_split() {
        let mut instance = user();
        instance.labels.set("a key with blanks", "ü".repeat(128));
        instance.labels.set("meshwork-service", "not the service");
        instance.labels.set("consul-x", "reserved");
        for n in 0..61 {
            instance.labels.set(format!("label-{n:02}"), "v".repeat(100));
        }
        let meta = survives(&instance);
        assert!(meta.contains_key("meshwork-more-1"));
        assert_eq!(meta[SERVICE], "users.v1");
        assert!(meta.contains_key("label-00"));
    }

    #[test]
    fn random_instances_survive_the_way_through_meta() {
        let mut dice = meshwork_registry::Dice::new(Some(7));
        for _ in 0..300 {
            let mut instance = user();
            instance.weight = dice.roll() as u16;
            instance.zone = "z".repeat(dice.roll() as usize % 256).into();
            for n in 0..dice.roll() % 64 {
                let key = ["plain", "dot.ted", "ünï", "Q\"uoted\\"][dice.roll() as usize % 4];
                let value = ["x", "ß", "\"", " "][dice.roll() as usize % 4].repeat(dice.roll() as usize % 60);
                instance.labels.set(format!("{key}{n}"), value);
            }
            survives(&instance);
        }
    }

    #[test]
    fn hostile_meta_is_refused_with_its_class() {
        let good = of(&user()).unwrap();
        let refused = |key: &str, value: &str| {
            let mut meta = good.clone();
            meta.insert(key.to_owned(), value.to_owned());
            decode("users-1", &meta, &mut Decoder::default()).unwrap_err().kind()
        };
        assert_eq!(refused(SCHEMA, "9"), RefusalKind::Schema);
        assert_eq!(refused(SCHEMA, "x"), RefusalKind::Field);
        assert_eq!(refused("meshwork-weight", "heavy"), RefusalKind::Field);
        assert_eq!(refused("meshwork-endpoints", "http://0.0.0.0:1 nonsense"), RefusalKind::Address);
        assert_eq!(refused("meshwork-more-0", "{"), RefusalKind::Syntax);
        assert_eq!(refused("meshwork-more-0", "[]"), RefusalKind::Syntax);
        let labels = decode(
            "users-1",
            &good
                .iter()
                .map(|(k, v)| (k.clone(), v.clone()))
                .chain([
                    ("meshwork-more-0".to_owned(), r#"{"labels":7}"#.to_owned()),
                    ("team".to_owned(), "x".to_owned()),
                ])
                .collect(),
            &mut Decoder::default(),
        );
        assert_eq!(labels.unwrap_err().kind(), RefusalKind::Syntax);
        assert!(decode("a/b", &good, &mut Decoder::default()).is_err());
    }

    #[test]
    fn what_readers_would_refuse_or_cut_is_not_announced_and_named() {
        let told = |change: fn(&mut Instance)| {
            let mut instance = user();
            change(&mut instance);
            let error = of(&instance).unwrap_err();
            assert_eq!(error.kind(), meshwork_core::ErrorKind::Invalid);
            meshwork_core::ErrorChain(&error).to_string()
        };
        let many = told(|instance| (0..65).for_each(|n| instance.labels.set(format!("k{n}"), "v")));
        assert!(many.contains("65 labels"), "{many}");
        let long = told(|instance| instance.labels.set("notes", "x".repeat(257)));
        assert!(long.contains("value of label `notes` has 257 bytes"), "{long}");
        let key = told(|instance| instance.labels.set("k".repeat(300), "x"));
        assert!(key.contains("key of label `kkk") && key.contains("300 bytes"), "{key}");
        let zone = told(|instance| instance.zone = "z".repeat(257).into());
        assert!(zone.contains("`zone` has 257 bytes"), "{zone}");
        let large = told(|instance| {
            (0..64).for_each(|n| instance.labels.set(format!("k{n}"), "v".repeat(250)));
            instance.labels.set("k63", "v".repeat(256));
        });
        assert!(large.contains("16384") && large.contains("`k63`"), "{large}");
    }
}
