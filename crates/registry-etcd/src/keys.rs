//! Where records stand and how they are written and read: the dialects of one backend.

use std::sync::Arc;

use meshwork_core::{Change, Decoded, Dialect, Error, Instance, InstanceId, Query, Record, ServiceName};

use crate::{
    config,
    record::{Entry, Event, Listing},
};

/// The dialects of one backend and the environment it was opened for. The first dialect is read; all
/// are written.
pub(crate) struct Keys {
    /// With slashes around it.
    pub(crate) root: Box<str>,
    pub(crate) env: Box<str>,
    pub(crate) dialects: Vec<Arc<dyn Dialect>>,
}

/// The records of one instance, the one that is read first.
pub(crate) type Records = Vec<(String, Vec<u8>)>;

impl Keys {
    fn reading(&self) -> &dyn Dialect {
        &*self.dialects[0]
    }

    /// What the keys of a query begin with; ends in `/`.
    pub(crate) fn prefix(&self, query: &Query) -> Result<String, Error> {
        query.only(&[])?;
        let env = query.env().unwrap_or(&self.env);
        config::environment(env)?;
        Ok(self.reading().prefix(env, query.service()))
    }

    /// What the keys of all instances of our environment begin with.
    pub(crate) fn instances(&self) -> String {
        format!("{}{}/instances/", self.root, self.env)
    }

    /// The service of such a key.
    pub(crate) fn service_of(&self, key: &[u8]) -> Option<ServiceName> {
        let key = std::str::from_utf8(key).ok()?;
        self.reading().id_of(key)?;
        let (service, _id) = key.strip_prefix(&self.instances())?.split_once('/')?;
        ServiceName::new(service).ok()
    }

    /// The records of `instance` under `lease`.
    pub(crate) fn records(&self, instance: &Instance, lease: i64) -> Result<Records, Error> {
        let env = if instance.env.is_empty() { &*self.env } else { &*instance.env };
        config::environment(env)?;
        let mut all = Records::new();
        for dialect in &self.dialects {
            let written = dialect.encode(env, instance, lease);
            all.extend(written.map_err(|refusal| {
                Error::invalid(format!("writing the record of `{}`", instance.id)).with_source(refusal)
            })?);
        }
        if all.is_empty() {
            return Err(Error::invalid(format!("no dialect writes a record of `{}`", instance.id)));
        }
        Ok(all)
    }

    /// Reads one record.
    pub(crate) fn decode(&self, entry: &Entry) -> Decoded {
        let Some(key) = entry.key() else { return Decoded::NotMine };
        let lease = (entry.lease != 0).then_some(entry.lease);
        self.reading().decode(&Record { key, value: &entry.value, lease })
    }

    /// A list as changes: what was refused, then the set.
    pub(crate) fn set(&self, listing: &Listing) -> Vec<Change> {
        let mut told = Vec::new();
        let mut set = Vec::with_capacity(listing.entries.len());
        for entry in &listing.entries {
            set.extend(self.take(entry, &mut told));
        }
        told.push(Change::Set(set));
        told
    }

    /// The events of one revision as changes: what was refused, then the delta, unless it is empty.
    pub(crate) fn delta(&self, events: &[Event]) -> Vec<Change> {
        let mut told = Vec::new();
        let (mut put, mut removed) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                Event::Put(entry) => put.extend(self.take(entry, &mut told)),
                Event::Removed { key, .. } => removed.extend(self.id_of(key)),
            }
        }
        if !(put.is_empty() && removed.is_empty()) {
            told.push(Change::Delta { put, removed });
        }
        told
    }

    fn id_of(&self, key: &[u8]) -> Option<InstanceId> {
        self.reading().id_of(std::str::from_utf8(key).ok()?)
    }

    fn take(&self, entry: &Entry, refused: &mut Vec<Change>) -> Option<Arc<Instance>> {
        match self.decode(entry) {
            Decoded::Instance(instance) => Some(Arc::from(instance)),
            Decoded::NotMine => None,
            Decoded::Refused { id, reason } => {
                let record = String::from_utf8_lossy(&entry.key).into();
                refused.push(Change::Refused { id, record, reason });
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::{Native, ServiceName};

    use super::*;

    fn keys() -> Keys {
        let dialects: Vec<Arc<dyn Dialect>> = vec![Arc::new(Native::new("meshwork").unwrap())];
        Keys { root: "/meshwork/".into(), env: "test".into(), dialects }
    }

    fn user(id: &str) -> Instance {
        let id = InstanceId::new(id).unwrap();
        let mut instance = Instance::with_id(ServiceName::new("user").unwrap(), id);
        instance.endpoints.push("http://127.0.0.1:80".parse().unwrap());
        instance
    }

    fn entry(id: &str, value: &[u8]) -> Entry {
        let key = format!("/meshwork/test/instances/user/{id}").into_bytes();
        Entry { key, value: value.to_vec(), lease: 7, revision: 3 }
    }

    #[test]
    fn a_refused_record_is_told_before_the_set_and_never_in_it() {
        let keys = keys();
        let (_, good) = keys.records(&user("user-1"), 7).unwrap().remove(0);
        let entries = vec![entry("user-1", &good), entry("user-2", b"\xff"), entry("a/b", b"{}")];
        let told = keys.set(&Listing { revision: 3, entries });
        assert!(matches!(&told[0], Change::Refused { id: Some(id), .. } if id.as_str() == "user-2"));
        assert!(matches!(&told[1], Change::Set(set) if set.len() == 1 && set[0].id.as_str() == "user-1"));
        assert_eq!(told.len(), 2);
    }

    #[test]
    fn a_revision_is_one_delta() {
        let keys = keys();
        let (_, good) = keys.records(&user("user-1"), 7).unwrap().remove(0);
        let gone = Event::Removed { key: entry("user-3", b"").key, revision: 3 };
        let told = keys.delta(&[Event::Put(entry("user-1", &good)), gone]);
        assert!(
            matches!(&told[..], [Change::Delta { put, removed }] if put.len() == 1 && removed.len() == 1)
        );
        assert!(keys.delta(&[Event::Put(entry("x/y", b""))]).is_empty(), "somebody else's key says nothing");
    }

    #[test]
    fn keys_of_instances_name_their_service_and_others_none() {
        let keys = keys();
        let service = |key: &str| keys.service_of(key.as_bytes()).map(|name| name.to_string());
        assert_eq!(service("/meshwork/test/instances/user/user-1").as_deref(), Some("user"));
        for other in [
            "/meshwork/prod/instances/user/user-1",
            "/meshwork/test/documents/user",
            "/meshwork/test/instances/user",
            "/meshwork/test/instances/user/",
            "/meshwork/test/instances/user/a/b",
            "/meshwork/test/instances/../a",
        ] {
            assert_eq!(service(other), None, "{other}");
        }
    }

    #[test]
    fn queries_name_their_environment_and_nothing_else() {
        let query = Query::new(ServiceName::new("user").unwrap());
        let keys = keys();
        assert_eq!(keys.prefix(&query).unwrap(), "/meshwork/test/instances/user/");
        let prod = keys.prefix(&query.clone().in_env("prod")).unwrap();
        assert_eq!(prod, "/meshwork/prod/instances/user/");
        assert!(keys.prefix(&query.clone().with("dc", "x")).is_err());
        assert!(keys.prefix(&query.in_env("../x")).is_err());
    }
}
