//! What one instance is at its agent: what is sent, and how what stands there is judged.

use std::collections::BTreeMap;

use meshwork_core::{Decoder, Endpoint, Error, Host, Instance, Scheme, Status, Timestamp};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};

use crate::{
    config::ConsulConfig,
    meta::{self, Meta},
    names,
};

/// The registration of one instance.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// As the agent takes it.
    pub(crate) body: Value,
    /// The ids of its checks.
    pub(crate) checks: Vec<String>,
    /// The check that heartbeats keep, if there is one.
    pub(crate) ttl: Option<String>,
    standing: Standing,
}

/// The part of a service that only we write.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Standing {
    service: String,
    address: String,
    port: u16,
    #[serde(default, deserialize_with = "or_empty")]
    meta: Meta,
    #[serde(default, deserialize_with = "or_empty")]
    tags: Vec<String>,
    #[serde(default)]
    enable_tag_override: bool,
    weights: BTreeMap<String, i64>,
}

/// What tells one process from another under the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    endpoints: Vec<Endpoint>,
    start_time: Option<Timestamp>,
}

/// What stands under our own id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// Exactly what was written.
    Same,
    /// Something else that does not name another process.
    Differs,
    /// The record of another process.
    Another,
}

impl Identity {
    pub(crate) fn of(instance: &Instance) -> Self {
        let mut endpoints = instance.endpoints.clone();
        endpoints.sort();
        Self { endpoints, start_time: instance.start_time }
    }
}

impl Entry {
    /// The registration of `instance`, its checks in state `initial` where they are new.
    ///
    /// # Errors
    /// `Invalid` naming what Consul or readers would not take.
    pub(crate) fn of(instance: &Instance, config: &ConsulConfig) -> Result<Self, Error> {
        let name = names::registered(&instance.service, config.names)?;
        let meta = meta::of(instance)?;
        let first = primary(instance)
            .ok_or_else(|| Error::invalid(format!("announcing `{}`: it has no endpoint", instance.id)))?;
        let (address, port) = (host(first.host()), first.port());
        let mut tags = config.tags.clone();
        if name != instance.service.as_str() {
            // Lists of services carry tags only: without this nobody could tell the exact name.
            tags.push(format!("{EXACT_NAME}{}", instance.service));
        }
        let weight = i64::from(instance.weight.max(1));
        let weights = BTreeMap::from([("Passing".to_owned(), weight), ("Warning".to_owned(), weight)]);
        // Who is not up enters maintenance right after; until then its new checks keep it out.
        let initial = if instance.status == Status::Up { "passing" } else { "critical" };
        let mut definitions = Vec::with_capacity(config.checks.len());
        for check in &config.checks {
            definitions.push(check.definition(instance, config.ttl, config.deregister_after, initial)?);
        }
        let checks: Vec<String> = config.checks.iter().map(|check| check.id(instance)).collect();
        let has_ttl = config.checks.iter().find(|check| check.kind == crate::checks::Kind::Ttl);
        let body = json!({
            "ID": instance.id,
            "Name": name,
            "Address": address,
            "Port": port,
            "Tags": tags,
            "Meta": meta,
            "Weights": weights,
            "TaggedAddresses": tagged(instance, first, config),
            "EnableTagOverride": false,
            "Checks": definitions,
        });
        let standing =
            Standing { service: name, address, port, meta, tags, enable_tag_override: false, weights };
        let ttl = has_ttl.map(|check| check.id(instance));
        Ok(Self { body, checks, ttl, standing })
    }

    /// Judges what stands under our id; `selves` is who we were in everything that was sent.
    pub(crate) fn judge(&self, id: &str, standing: &Standing, selves: &[Identity]) -> Judged {
        if *standing == self.standing {
            return Judged::Same;
        }
        let meta = Some(&standing.meta).filter(|meta| meta::is_native(meta));
        let who = meta.and_then(|meta| meta::decode(id, meta, &mut Decoder::default()).ok());
        match who {
            Some(who) if !selves.contains(&Identity::of(&who)) => Judged::Another,
            _ => Judged::Differs,
        }
    }
}

/// What Go writes as `null`.
fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Begins the tag that carries the exact name of a service whose name was mapped.
pub(crate) const EXACT_NAME: &str = "meshwork-service=";

/// The endpoint that plain Consul clients get.
fn primary(instance: &Instance) -> Option<&Endpoint> {
    let http = instance.endpoints.iter().find(|endpoint| !endpoint.scheme().is_grpc());
    http.or_else(|| instance.endpoints.first())
}

/// `lan`, `wan` where one is configured, and the first endpoint of each scheme under the scheme's name.
fn tagged(instance: &Instance, first: &Endpoint, config: &ConsulConfig) -> Value {
    let at = |host: String, port: u16| json!({ "Address": host, "Port": port });
    let mut all = Map::new();
    all.insert("lan".to_owned(), at(host(first.host()), first.port()));
    if let Some(wan) = &config.wan_address {
        all.insert("wan".to_owned(), at(wan.clone(), first.port()));
    }
    for scheme in [Scheme::Http, Scheme::Https, Scheme::Grpc, Scheme::Grpcs] {
        if let Some(endpoint) = instance.endpoints.iter().find(|endpoint| endpoint.scheme() == scheme) {
            all.insert(scheme.as_str().to_owned(), at(host(endpoint.host()), endpoint.port()));
        }
    }
    Value::Object(all)
}

/// A host as Consul writes it: IPv6 addresses stand without brackets.
fn host(host: &Host) -> String {
    match host {
        Host::Ip(ip) => ip.to_string(),
        Host::Name(name) => name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::{InstanceId, ServiceName};

    use super::*;

    fn user() -> Instance {
        let id = InstanceId::new("users-1").unwrap();
        let mut instance = Instance::with_id(ServiceName::new("users").unwrap(), id);
        instance.endpoints =
            vec!["grpc://10.0.0.1:90".parse().unwrap(), "http://[fd00::1]:80".parse().unwrap()];
        instance
    }

    fn entry(instance: &Instance) -> Entry {
        let config = ConsulConfig {
            tags: vec!["v1".to_owned()],
            wan_address: Some("203.0.113.1".to_owned()),
            ..ConsulConfig::default()
        };
        Entry::of(instance, &config).unwrap()
    }

    /// What the agent says of a service that was registered like this.
    fn standing(body: &Value) -> Standing {
        let mut said = body.clone();
        said["Service"] = body["Name"].clone();
        serde_json::from_value(said).unwrap()
    }

    #[test]
    fn plain_clients_get_the_http_endpoint_and_every_scheme_by_its_name() {
        let body = entry(&user()).body;
        assert_eq!((&body["Address"], &body["Port"]), (&json!("fd00::1"), &json!(80)));
        assert_eq!(body["TaggedAddresses"]["grpc"], json!({ "Address": "10.0.0.1", "Port": 90 }));
        assert_eq!(body["TaggedAddresses"]["wan"], json!({ "Address": "203.0.113.1", "Port": 80 }));
        assert_eq!(body["Weights"], json!({ "Passing": 100, "Warning": 100 }));
        assert_eq!((&body["Tags"], &body["EnableTagOverride"]), (&json!(["v1"]), &json!(false)));
        assert_eq!(body["Checks"][0]["Status"], "passing");
    }

    #[test]
    fn a_weight_of_0_is_kept_in_meta_and_1_for_others() {
        let mut parked = user();
        parked.weight = 0;
        let body = entry(&parked).body;
        assert_eq!((&body["Weights"]["Passing"], &body["Meta"]["meshwork-weight"]), (&json!(1), &json!("0")));
    }

    #[test]
    fn who_is_not_up_does_not_enter_as_passing() {
        let mut unready = user();
        unready.status = Status::Unready;
        assert_eq!(entry(&unready).body["Checks"][0]["Status"], "critical");
    }

    #[test]
    fn a_mapped_name_is_told_in_a_tag() {
        let mut dotted = user();
        dotted.service = ServiceName::new("users.v1").unwrap();
        let body = entry(&dotted).body;
        assert_eq!(
            (&body["Name"], &body["Tags"][1]),
            (&json!("users-v1"), &json!("meshwork-service=users.v1"))
        );
    }

    #[test]
    fn what_stands_is_judged_by_its_content_and_by_who_wrote_it() {
        let (me, mine) = (user(), entry(&user()));
        let selves = [Identity::of(&me)];
        let judged = |body: &Value| mine.judge("users-1", &standing(body), &selves);
        assert_eq!(judged(&Entry::of(&me, &ConsulConfig::default()).unwrap().body), Judged::Differs, "tags");
        assert_eq!(judged(&entry(&me).body), Judged::Same);
        let mut edited = mine.body.clone();
        edited["Weights"]["Passing"] = json!(7);
        assert_eq!(judged(&edited), Judged::Differs);
        edited["Meta"] = json!(null);
        assert_eq!(judged(&edited), Judged::Differs);
        let mut clone = me;
        clone.start_time = Some(Timestamp::from_millis(1));
        assert_eq!(judged(&entry(&clone).body), Judged::Another);
    }
}
