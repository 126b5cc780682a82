//! The JSON of an instance, schema 1, and how hostile records are read.
//!
//! A value outside its range is clamped and counted; a wrong type refuses the whole record; fields that a
//! newer version added are passed over.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Number;

use crate::{
    AddressRules, Endpoint, Instance, InstanceId, Labels, Origin, Refusal, RefusalKind, ServiceName, Status,
    Timestamp,
};

/// The most bytes of one record: 16 KiB.
pub const MAX_RECORD_BYTES: usize = 16 * 1024;
/// The most labels of one instance.
pub const MAX_LABELS: usize = 64;
/// The most endpoints of one instance.
pub const MAX_ENDPOINTS: usize = 8;

const SCHEMA: u64 = 1;
/// The most bytes of one text field; a longer one is cut.
const MAX_TEXT: usize = 256;
/// The most texts a decoder keeps interned.
const MAX_INTERNED: usize = 4096;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outgoing<'a> {
    schema: u64,
    service: &'a ServiceName,
    id: &'a InstanceId,
    endpoints: &'a [Endpoint],
    #[serde(skip_serializing_if = "str::is_empty")]
    env: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    region: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    zone: &'a str,
    weight: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    deployment: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    app_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    frame_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    build_time: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Timestamp>,
    status: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    overridden: &'a [Arc<str>],
    #[serde(skip_serializing_if = "Labels::is_empty")]
    labels: &'a Labels,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Incoming {
    service: String,
    id: String,
    #[serde(default)]
    endpoints: Vec<String>,
    #[serde(default)]
    env: String,
    #[serde(default)]
    region: String,
    #[serde(default)]
    zone: String,
    weight: Option<Number>,
    #[serde(default)]
    deployment: String,
    #[serde(default)]
    app_version: String,
    #[serde(default)]
    frame_version: String,
    build_time: Option<String>,
    start_time: Option<String>,
    status: Option<String>,
    #[serde(default)]
    overridden: Vec<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Versioned {
    schema: Option<u64>,
}

/// The record of `instance`.
///
/// # Errors
/// [`RefusalKind::TooLarge`] when it has more than 64 labels, more than 8 endpoints, or takes more than
/// 16 KiB: what readers would refuse is not written.
pub fn encode(instance: &Instance) -> Result<Vec<u8>, Refusal> {
    let too_large = |detail: String| Err(Refusal::new(RefusalKind::TooLarge, detail));
    if instance.labels.len() > MAX_LABELS {
        return too_large(format!("{} labels are more than {MAX_LABELS}", instance.labels.len()));
    }
    if instance.endpoints.len() > MAX_ENDPOINTS {
        return too_large(format!("{} endpoints are more than {MAX_ENDPOINTS}", instance.endpoints.len()));
    }
    let outgoing = Outgoing {
        schema: SCHEMA,
        service: &instance.service,
        id: &instance.id,
        endpoints: &instance.endpoints,
        env: &instance.env,
        region: &instance.region,
        zone: &instance.zone,
        weight: instance.weight,
        deployment: &instance.deployment,
        app_version: &instance.app_version,
        frame_version: &instance.frame_version,
        build_time: instance.build_time,
        start_time: instance.start_time,
        status: instance.status.as_str(),
        overridden: &instance.overridden,
        labels: &instance.labels,
    };
    let bytes = serde_json::to_vec(&outgoing).expect("invariant: a record has only string keys");
    if bytes.len() > MAX_RECORD_BYTES {
        return too_large(format!("a record of {} bytes is more than {MAX_RECORD_BYTES}", bytes.len()));
    }
    Ok(bytes)
}

/// Reads one record with a decoder of its own; see [`Decoder::decode`].
///
/// # Errors
/// As [`Decoder::decode`].
pub fn decode(bytes: &[u8]) -> Result<Instance, Refusal> {
    Decoder::default().decode(bytes)
}

/// Reads records, sharing the texts that many of them repeat (zones, versions, environments).
#[derive(Debug, Default)]
pub struct Decoder {
    texts: HashSet<Arc<str>>,
    rules: AddressRules,
    clamped: u64,
}

impl Decoder {
    /// How many values were outside their range and were clamped, cut or dropped so far.
    pub fn clamped(&self) -> u64 {
        self.clamped
    }

    /// Reads one record.
    ///
    /// # Errors
    /// A [`Refusal`] when it is too large, no JSON object, of another schema, lacks a field, has a field
    /// of the wrong type, or has no endpoint that may be called (unless it says `leaving` or `unready`).
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Instance, Refusal> {
        let size = bytes.len();
        if size > MAX_RECORD_BYTES {
            let detail = format!("record of {size} bytes is larger than {MAX_RECORD_BYTES}");
            return Err(Refusal::new(RefusalKind::TooLarge, detail));
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|e| Refusal::new(RefusalKind::Syntax, format!("record is not UTF-8: {e}")))?;
        let versioned: Versioned = serde_json::from_str(text).map_err(|e| refusal_of(&e))?;
        match versioned.schema {
            Some(SCHEMA) => {}
            Some(other) => {
                let detail = format!("schema {other} is not {SCHEMA}, the one this version reads");
                return Err(Refusal::new(RefusalKind::Schema, detail));
            }
            None => return Err(Refusal::new(RefusalKind::Schema, "record does not tell its schema")),
        }
        let incoming: Incoming = serde_json::from_str(text).map_err(|e| refusal_of(&e))?;
        self.instance(&incoming)
    }

    fn instance(&mut self, incoming: &Incoming) -> Result<Instance, Refusal> {
        let field = |e: crate::NameError| Refusal::new(RefusalKind::Field, e.to_string());
        let service = ServiceName::new(&incoming.service).map_err(field)?;
        let id = InstanceId::new(&incoming.id).map_err(field)?;
        let status = match incoming.status.as_deref() {
            None | Some("up") => Status::Up,
            Some("leaving") => Status::Leaving,
            Some(_) => Status::Unready,
        };
        let endpoints = self.endpoints(&incoming.endpoints);
        if endpoints.is_empty() && status == Status::Up {
            let listed = incoming.endpoints.iter().take(3).map(|e| e.escape_debug().to_string());
            let detail =
                format!("no endpoint that may be called in [{}]", listed.collect::<Vec<_>>().join(", "));
            return Err(Refusal::new(RefusalKind::Address, detail));
        }
        Ok(Instance {
            service,
            id,
            endpoints,
            env: self.text(&incoming.env),
            region: self.text(&incoming.region),
            zone: self.text(&incoming.zone),
            weight: self.weight(incoming.weight.as_ref()),
            deployment: self.text(&incoming.deployment),
            app_version: self.text(&incoming.app_version),
            frame_version: self.text(&incoming.frame_version),
            build_time: self.time(incoming.build_time.as_deref()),
            start_time: self.time(incoming.start_time.as_deref()),
            status,
            overridden: incoming.overridden.iter().take(MAX_LABELS).map(|t| self.text(t)).collect(),
            labels: self.labels(&incoming.labels),
            origin: Origin::Native,
        })
    }

    fn endpoints(&mut self, texts: &[String]) -> Vec<Endpoint> {
        let mut good: Vec<Endpoint> = Vec::with_capacity(texts.len().min(MAX_ENDPOINTS));
        for text in texts {
            match text.parse::<Endpoint>() {
                Ok(endpoint)
                    if good.len() < MAX_ENDPOINTS && self.rules.objection_to(&endpoint).is_none() =>
                {
                    if !good.contains(&endpoint) {
                        good.push(endpoint);
                    }
                }
                // A scheme of a newer version is no fault, but there is nothing we could do with it.
                _ => self.clamped += 1,
            }
        }
        good
    }

    fn weight(&mut self, weight: Option<&Number>) -> u16 {
        let Some(weight) = weight else { return Instance::DEFAULT_WEIGHT };
        let exact = weight.as_u64().and_then(|weight| u16::try_from(weight).ok());
        exact.unwrap_or_else(|| {
            self.clamped += 1;
            weight.as_f64().unwrap_or(0.0).clamp(0.0, f64::from(u16::MAX)) as u16
        })
    }

    fn time(&mut self, text: Option<&str>) -> Option<Timestamp> {
        let time = text?.parse().ok();
        self.clamped += u64::from(time.is_none());
        time
    }

    fn labels(&mut self, labels: &BTreeMap<String, String>) -> Labels {
        self.clamped += labels.len().saturating_sub(MAX_LABELS) as u64;
        labels.iter().take(MAX_LABELS).map(|(k, v)| (self.text(k), self.text(v))).collect()
    }

    fn text(&mut self, text: &str) -> Arc<str> {
        let mut end = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        self.clamped += u64::from(end < text.len());
        let text = &text[..end];
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = Arc::from(text);
        if self.texts.len() < MAX_INTERNED {
            self.texts.insert(Arc::clone(&new));
        }
        new
    }
}

fn refusal_of(error: &serde_json::Error) -> Refusal {
    let kind = match error.classify() {
        serde_json::error::Category::Data => RefusalKind::Field,
        _ => RefusalKind::Syntax,
    };
    Refusal::new(kind, format!("record is not an instance: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Instance {
        let mut instance = Instance::new(ServiceName::new("users").unwrap());
        instance.endpoints =
            vec!["http://10.0.0.1:80".parse().unwrap(), "grpc://[fd00::1]:90".parse().unwrap()];
        instance.zone = "zone1".into();
        instance.weight = 0;
        instance.app_version = "1.2.3+abc".into();
        instance.build_time = Some(Timestamp::from_millis(1_700_000_000_123));
        instance.labels.set("team", "core \"quoted\" ü");
        instance.overridden = vec!["weight".into()];
        instance
    }

    fn refused(json: &str) -> RefusalKind {
        decode(json.as_bytes()).unwrap_err().kind()
    }

    #[test]
    fn an_instance_survives_the_way_through_its_record() {
        let instance = full();
        assert_eq!(decode(&encode(&instance).unwrap()).unwrap(), instance);
    }

    #[test]
    fn the_golden_record_of_schema_1_stays_readable() {
        let golden = r#"{"schema":1,"service":"users","id":"users-1","endpoints":["http://10.0.0.1:80"],
            "env":"prod","zone":"z","weight":50,"appVersion":"1.0","frameVersion":"0.1.0",
            "buildTime":"2026-11-20T10:30:00.000Z","startTime":"2026-11-20T10:30:00.000Z","status":"up",
            "labels":{"a":"b"},"later":{"unknown":[1]}}"#;
        let instance = decode(golden.as_bytes()).unwrap();
        assert_eq!((instance.weight, &*instance.zone, instance.labels.get("a")), (50, "z", Some("b")));
    }

    #[test]
    fn what_is_no_record_is_refused_with_its_class() {
        let head = r#"{"schema":1,"service":"a","id":"a-1","endpoints":["http://10.0.0.1:80"]"#;
        assert_eq!(refused("nonsense"), RefusalKind::Syntax);
        assert_eq!(refused("null"), RefusalKind::Field);
        assert_eq!(refused("[]"), RefusalKind::Field);
        assert_eq!(decode(b"\xff\xfe").unwrap_err().kind(), RefusalKind::Syntax);
        assert_eq!(decode(&vec![b' '; 1 << 20]).unwrap_err().kind(), RefusalKind::TooLarge);
        assert_eq!(refused(r#"{"schema":2}"#), RefusalKind::Schema);
        assert_eq!(refused(r#"{"service":"a"}"#), RefusalKind::Schema);
        assert_eq!(refused(&format!(r#"{head},"weight":"5"}}"#)), RefusalKind::Field);
        assert_eq!(refused(&format!(r#"{head},"labels":[]}}"#)), RefusalKind::Field);
        assert_eq!(refused(r#"{"schema":1,"service":"..","id":"a","endpoints":[]}"#), RefusalKind::Field);
        for endpoint in
            ["http://10.0.0.1:0", "http://0.0.0.0:80", "http://169.254.1.1:80", "http://224.0.0.1:1"]
        {
            let record = format!(r#"{{"schema":1,"service":"a","id":"a-1","endpoints":["{endpoint}"]}}"#);
            assert_eq!(refused(&record), RefusalKind::Address, "{endpoint}");
        }
    }

    #[test]
    fn values_outside_their_range_are_clamped_and_counted() {
        let mut decoder = Decoder::default();
        let mut weight = |text: &str| {
            let record = format!(
                r#"{{"schema":1,"service":"a","id":"a-1","endpoints":["http://10.0.0.1:80"],"weight":{text}}}"#
            );
            decoder.decode(record.as_bytes()).unwrap().weight
        };
        assert_eq!([weight("-1"), weight("70000"), weight("1e300"), weight("7")], [0, 65535, 65535, 7]);
        assert_eq!(decoder.clamped(), 3);
    }

    #[test]
    fn an_unknown_status_takes_no_calls() {
        let record =
            r#"{"schema":1,"service":"a","id":"a-1","endpoints":["http://10.0.0.1:80"],"status":"zen"}"#;
        assert_eq!(decode(record.as_bytes()).unwrap().status, Status::Unready);
    }

    #[test]
    fn what_readers_would_refuse_is_not_written() {
        let mut instance = full();
        for n in 0..=MAX_LABELS {
            instance.labels.set(format!("k{n}"), "v");
        }
        assert_eq!(encode(&instance).unwrap_err().kind(), RefusalKind::TooLarge);
        let mut instance = full();
        instance.labels.set("k", "v".repeat(MAX_RECORD_BYTES));
        assert_eq!(encode(&instance).unwrap_err().kind(), RefusalKind::TooLarge);
    }
}
