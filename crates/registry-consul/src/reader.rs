//! From rows to instances: native ones by their Meta, foreign ones with sensible defaults.
//!
//! **Health.** A row with a critical check, of the service or of its node, is not listed; one in `warning` is,
//! unless the configuration says else. Maintenance makes an instance `unready`: it stays listed and takes no
//! calls. A native one that says `leaving` is listed whatever its checks say, for that is final.
//!
//! **Foreign instances.** Address: the service's, else the node's; across datacenters the tagged address `wan`,
//! if there is one. Protocol: the query's `protocol`, else Meta `protocol` or `scheme`, else a tag that is one of
//! http, https, grpc, grpcs, else `http`; Meta `gRPC_port` adds a second endpoint. Weight: its ratio to the
//! median of the foreign instances, at most 10, times 100. Meta and tags (as `tags`) become labels.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use meshwork_core::{
    AddressRules, Change, Decoder, Endpoint, Host, Instance, InstanceId, Origin, Refusal, RefusalKind,
    Scheme, ServiceName, Status,
};

use crate::{
    asked::Asked,
    meta::{self, Meta},
    names,
    rows::{Health, Row, Service, Unread, Weights},
};

/// The most that one foreign instance may weigh, in medians.
const CAP: u64 = 10;
/// Labels and their sizes as in every record.
const MAX_LABELS: usize = 64;
const MAX_TEXT: usize = 256;

/// One instance that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) instance: Arc<Instance>,
    /// The weight of a foreign one as Consul has it.
    pub(crate) weight: Option<u32>,
    health: Health,
    modified: u64,
}

impl Found {
    /// A native instance in good health.
    #[cfg(test)]
    pub(crate) fn of(instance: Arc<Instance>) -> Self {
        Self { instance, weight: None, health: Health::Passing, modified: 0 }
    }

    /// Whether calls can go there.
    pub(crate) fn is_usable(&self) -> bool {
        self.instance.status == Status::Up
    }
}

/// A row that was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    id: Option<InstanceId>,
    record: Box<str>,
    reason: Refusal,
}

/// What one answer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) found: Vec<Found>,
    pub(crate) refused: Vec<Refused>,
}

/// Reads the rows of one query at one place, and remembers what it decoded.
pub(crate) struct Reader {
    asked: Arc<Asked>,
    service: ServiceName,
    /// The name that was asked for at this place.
    name: String,
    /// Whether addresses of other datacenters are to be taken.
    is_remote: bool,
    use_warning: bool,
    decoder: Decoder,
    known: Known,
}

/// What was decoded, by node and service id, with the index at which the service was written.
type Known = HashMap<Key, Decoded>;
type Key = (String, String);
type Decoded = (u64, Result<Arc<Instance>, Refusal>);

impl Reader {
    pub(crate) fn new(
        asked: Arc<Asked>,
        service: ServiceName,
        name: String,
        is_remote: bool,
        use_warning: bool,
    ) -> Self {
        let (decoder, known) = (Decoder::default(), HashMap::new());
        Self { asked, service, name, is_remote, use_warning, decoder, known }
    }

    /// Reads one answer; says too whether somebody is missing whom the one before listed.
    pub(crate) fn read(&mut self, rows: Vec<Result<Row, Unread>>) -> (Reading, bool) {
        let mut reading = Reading::default();
        let mut best: BTreeMap<InstanceId, Found> = BTreeMap::new();
        let mut known = std::mem::take(&mut self.known);
        for row in rows {
            let row = match row {
                Ok(row) => row,
                Err(unread) => {
                    let (refused, last_good) = refused(unread, &mut known);
                    reading.refused.push(refused);
                    self.known.extend(last_good);
                    continue;
                }
            };
            if !self.is_asked_for(&row.service) {
                continue;
            }
            let key = (row.node.node.clone(), row.service.id.clone());
            let remembered = known.remove(&key).filter(|(modified, _)| *modified == row.service.modified);
            let decoded = match remembered {
                Some((_, decoded)) => decoded,
                None => self.decode(&row).map(Arc::new),
            };
            self.known.insert(key, (row.service.modified, decoded.clone()));
            match decoded {
                Ok(instance) => {
                    let Some(found) = self.judged(&row, instance) else { continue };
                    // The same id on two agents: the healthier one, then the one written later.
                    let rank = |found: &Found| (std::cmp::Reverse(found.health), found.modified);
                    let id = found.instance.id.clone();
                    if best.get(&id).is_none_or(|other| rank(other) < rank(&found)) {
                        best.insert(id, found);
                    }
                }
                Err(reason) => {
                    let id = if native(&row.service).is_some() {
                        InstanceId::new(&row.service.id).ok()
                    } else {
                        Some(names::foreign_id(&row.service.id, &row.node.node))
                    };
                    let record = format!("{}/{}", row.node.node, row.service.id).into();
                    reading.refused.push(Refused { id, record, reason });
                }
            }
        }
        reading.found = best.into_values().collect();
        (reading, !known.is_empty())
    }

    /// Decodes every row of the next answer anew: its indexes may be those of another store.
    pub(crate) fn doubt(&mut self) {
        for (modified, _) in self.known.values_mut() {
            *modified = u64::MAX;
        }
    }

    fn is_asked_for(&self, service: &Service) -> bool {
        match native(service) {
            Some(meta) => {
                let env = meta.get("meshwork-env").map(String::as_str).unwrap_or_default();
                meta.get(meta::SERVICE).is_some_and(|name| **name == *self.asked.service)
                    && (env.is_empty() || *env == *self.asked.env)
            }
            // Consul finds names whatever their case; a mapped name says nothing of foreign ones.
            None => {
                self.name == *self.asked.service && service.name.eq_ignore_ascii_case(&self.asked.service)
            }
        }
    }

    fn decode(&mut self, row: &Row) -> Result<Instance, Refusal> {
        let Some(meta) = native(&row.service) else { return self.foreign(row) };
        let mut instance = meta::decode(&row.service.id, meta, &mut self.decoder)?;
        if self.is_remote
            && let Some(host) = wan(&row.service)
        {
            for endpoint in &mut instance.endpoints {
                *endpoint = Endpoint::new(endpoint.scheme(), host.clone(), endpoint.port())
                    .expect("invariant: the port was not 0 before");
            }
        }
        Ok(instance)
    }

    fn foreign(&self, row: &Row) -> Result<Instance, Refusal> {
        let service = &row.service;
        let mut instance =
            Instance::with_id(self.service.clone(), names::foreign_id(&service.id, &row.node.node));
        instance.origin = Origin::Foreign;
        instance.start_time = None;
        instance.frame_version = "".into();
        instance.endpoints = self.foreign_endpoints(row)?;
        let meta = service.meta.as_ref();
        let text = |key: &str| meta.and_then(|meta| meta.get(key)).map(|text| cut(text)).unwrap_or_default();
        instance.app_version = text("version").into();
        let (region, zone) = match &service.locality {
            Some(locality) => (cut(&locality.region), cut(&locality.zone)),
            None => (text("region"), text("zone")),
        };
        (instance.region, instance.zone) = (region.into(), zone.into());
        let tags = service.tags.iter().flatten().filter(|tag| !tag.is_empty()).cloned().collect::<Vec<_>>();
        let tags = (!tags.is_empty()).then(|| ("tags".to_owned(), tags.join(",")));
        let own = meta.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone()));
        let labels = tags.into_iter().chain(own).take(MAX_LABELS);
        instance.labels = labels.map(|(key, value)| (cut(&key).to_owned(), cut(&value).to_owned())).collect();
        Ok(instance)
    }

    fn foreign_endpoints(&self, row: &Row) -> Result<Vec<Endpoint>, Refusal> {
        let service = &row.service;
        let address = |detail: String| Refusal::new(RefusalKind::Address, detail);
        let lan = if service.address.is_empty() { &row.node.address } else { &service.address };
        let tagged = service.tagged.as_ref().and_then(|tagged| tagged.get("wan")).filter(|_| self.is_remote);
        let (host, port) = match tagged {
            Some(wan) if !wan.address.is_empty() => {
                (&wan.address, if wan.port == 0 { service.port } else { wan.port })
            }
            _ => (lan, service.port),
        };
        let host = host_of(host).map_err(|e| address(e.to_string()))?;
        let endpoint = |scheme: Scheme, port: i64| {
            let port = u16::try_from(port).map_err(|_| address(format!("port {port} is none")))?;
            let endpoint = Endpoint::new(scheme, host.clone(), port).map_err(|e| address(e.to_string()))?;
            match AddressRules::default().objection_to(&endpoint) {
                None => Ok(endpoint),
                Some(objection) => Err(address(format!("{endpoint}: {objection}"))),
            }
        };
        let mut endpoints = vec![endpoint(self.protocol_of(service), port)?];
        let grpc = service.meta.as_ref().and_then(|meta| meta.get("gRPC_port"));
        if let Some(grpc) = grpc.and_then(|port| port.parse().ok()) {
            endpoints.push(endpoint(Scheme::Grpc, grpc)?);
        }
        Ok(endpoints)
    }

    fn protocol_of(&self, service: &Service) -> Scheme {
        let said = |key: &str| service.meta.as_ref()?.get(key)?.to_ascii_lowercase().parse().ok();
        let tagged = || service.tags.iter().flatten().find_map(|tag| tag.to_ascii_lowercase().parse().ok());
        self.asked
            .protocol
            .or_else(|| said("protocol"))
            .or_else(|| said("scheme"))
            .or_else(tagged)
            .unwrap_or(Scheme::Http)
    }

    /// The instance with what its checks say, or nothing when they take it out.
    fn judged(&self, row: &Row, instance: Arc<Instance>) -> Option<Found> {
        let health = row.health();
        let is_out = match health {
            Health::Passing => false,
            Health::Warning => !self.use_warning,
            Health::Critical => true,
        };
        if is_out && instance.status != Status::Leaving {
            return None;
        }
        let weight = (!instance.is_native()).then(|| consul_weight(row.service.weights, health));
        let instance = if row.is_in_maintenance() && instance.status == Status::Up {
            changed(&instance, |instance| instance.status = Status::Unready)
        } else {
            instance
        };
        Some(Found { instance, weight, health, modified: row.service.modified })
    }
}

fn changed(instance: &Instance, change: impl FnOnce(&mut Instance)) -> Arc<Instance> {
    let mut instance = instance.clone();
    change(&mut instance);
    Arc::new(instance)
}

/// The Meta of a service that a Meshwork process wrote.
fn native(service: &Service) -> Option<&Meta> {
    service.meta.as_ref().filter(|meta| meta::is_native(meta))
}

fn wan(service: &Service) -> Option<Host> {
    host_of(&service.tagged.as_ref()?.get("wan")?.address).ok()
}

/// A host as Consul writes it: IPv6 addresses stand without brackets.
fn host_of(text: &str) -> Result<Host, meshwork_core::Error> {
    match text.parse() {
        Ok(ip) => Ok(Host::Ip(ip)),
        Err(_) => text.parse(),
    }
}

fn consul_weight(weights: Option<Weights>, health: Health) -> u32 {
    let weight = weights.map_or(1, |weights| match health {
        Health::Warning => weights.warning,
        _ => weights.passing,
    });
    u32::try_from(weight.clamp(0, 65_535)).unwrap_or_default()
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A row that could not be read keeps the last good record of its instance, which is remembered.
fn refused(unread: Unread, known: &mut Known) -> (Refused, Option<(Key, Decoded)>) {
    let Unread { node, id, cause } = unread;
    let part = |part: &Option<String>| part.clone().unwrap_or_else(|| "?".to_owned());
    let record = format!("{}/{}", part(&node), part(&id)).into();
    let before = node.zip(id).and_then(|key| known.remove_entry(&key));
    let instance = before.as_ref().and_then(|(_, (_, decoded))| decoded.as_ref().ok());
    let id = instance.map(|instance| instance.id.clone());
    (Refused { id, record, reason: Refusal::new(RefusalKind::Field, cause.to_string()) }, before)
}

impl From<Refused> for Change {
    fn from(refused: Refused) -> Self {
        Self::Refused { id: refused.id, record: refused.record, reason: refused.reason }
    }
}

/// The set of all that was found, with the weights of foreign instances made comparable.
pub(crate) fn set(found: &[Found]) -> Vec<Arc<Instance>> {
    let mut weights: Vec<u64> =
        found.iter().filter_map(|f| f.weight).filter(|w| *w > 0).map(u64::from).collect();
    weights.sort_unstable();
    let median = weights.get(weights.len() / 2).copied().unwrap_or(1);
    let scaled = |weight: u32| {
        let weight = u64::from(weight).min(CAP * median);
        let own = u64::from(Instance::DEFAULT_WEIGHT) * weight;
        let scaled = if weight == 0 { 0 } else { (own / median).max(1) };
        u16::try_from(scaled).unwrap_or(u16::MAX)
    };
    let weighed = |found: &Found| match found.weight.map(scaled) {
        Some(weight) if weight != found.instance.weight => {
            changed(&found.instance, |instance| instance.weight = weight)
        }
        _ => Arc::clone(&found.instance),
    };
    found.iter().map(weighed).collect()
}

#[cfg(test)]
mod tests;
