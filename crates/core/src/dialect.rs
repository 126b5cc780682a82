//! How instances are written as records of a key-value store.

use std::{fmt, sync::Mutex};

use crate::{Decoder, Instance, InstanceId, Refusal, RefusalKind, ServiceName, wire};

/// One record of a key-value store.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// The whole key.
    pub key: &'a str,
    /// The value.
    pub value: &'a [u8],
    /// The lease it is bound to, if any.
    pub lease: Option<i64>,
}

/// What a record turned out to be.
#[derive(Clone, Debug)]
pub enum Decoded {
    /// An instance.
    Instance(Box<Instance>),
    /// A key of somebody else under the same prefix: passed over in silence.
    NotMine,
    /// A record of this dialect that cannot be taken.
    Refused {
        /// The instance it concerns, when the key tells.
        id: Option<InstanceId>,
        /// Why.
        reason: Refusal,
    },
}

/// A record format: where the records of a service stand and what they look like.
pub trait Dialect: Send + Sync + 'static {
    /// Where the records of `service` stand; ends in `/`, so that no neighbour's name is a prefix of it.
    fn prefix(&self, env: &str, service: &ServiceName) -> String;

    /// The records of an instance, key and value. All of them stand under one lease.
    ///
    /// # Errors
    /// A [`Refusal`] when the instance cannot be written so that readers take it.
    fn encode(&self, env: &str, instance: &Instance, lease: i64) -> Result<Vec<(String, Vec<u8>)>, Refusal>;

    /// The id that a key names, if it is a key of this dialect; what a removal event tells.
    fn id_of(&self, key: &str) -> Option<InstanceId>;

    /// Reads one record.
    fn decode(&self, record: &Record<'_>) -> Decoded;
}

const _: fn(Box<dyn Dialect>) = |_| {};

/// Our own records: `/{prefix}/{env}/instances/{service}/{id}` with the JSON of [`encode`](wire::encode).
pub struct Native {
    root: Box<str>,
    decoder: Mutex<Decoder>,
}

impl Native {
    /// With this prefix (`meshwork` by default elsewhere); slashes around it do not matter.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) when it is empty or a part of it is no valid name.
    pub fn new(prefix: &str) -> Result<Self, crate::Error> {
        let prefix = prefix.trim_matches('/');
        for part in prefix.split('/') {
            if let Err(e) = ServiceName::new(part) {
                let shown = prefix.escape_debug();
                return Err(crate::Error::invalid(format!("registry prefix `{shown}`")).with_source(e));
            }
        }
        Ok(Self { root: format!("/{prefix}/").into(), decoder: Mutex::default() })
    }

    /// `service` and `id` of a key.
    fn parse(&self, key: &str) -> Option<(ServiceName, InstanceId)> {
        let mut parts = key.strip_prefix(&*self.root)?.split('/');
        let (_env, instances, service, id) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if instances != "instances" || parts.next().is_some() {
            return None;
        }
        Some((ServiceName::new(service).ok()?, InstanceId::new(id).ok()?))
    }
}

impl Dialect for Native {
    fn prefix(&self, env: &str, service: &ServiceName) -> String {
        format!("{}{env}/instances/{service}/", self.root)
    }

    fn encode(&self, env: &str, instance: &Instance, _lease: i64) -> Result<Vec<(String, Vec<u8>)>, Refusal> {
        let key = format!("{}{}", self.prefix(env, &instance.service), instance.id);
        Ok(vec![(key, wire::encode(instance)?)])
    }

    fn id_of(&self, key: &str) -> Option<InstanceId> {
        self.parse(key).map(|(_, id)| id)
    }

    fn decode(&self, record: &Record<'_>) -> Decoded {
        let Some((service, id)) = self.parse(record.key) else { return Decoded::NotMine };
        let read =
            self.decoder.lock().unwrap_or_else(std::sync::PoisonError::into_inner).decode(record.value);
        match read {
            Ok(instance) if instance.service == service && instance.id == id => {
                Decoded::Instance(Box::new(instance))
            }
            Ok(instance) => {
                let detail = format!("record of `{}` of `{}` under this key", instance.id, instance.service);
                Decoded::Refused { id: Some(id), reason: Refusal::new(RefusalKind::Misplaced, detail) }
            }
            Err(reason) => Decoded::Refused { id: Some(id), reason },
        }
    }
}

impl fmt::Debug for Native {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Native").field("root", &self.root).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Instance {
        let service = ServiceName::new("user").unwrap();
        let mut instance = Instance::with_id(service, InstanceId::new("user-1").unwrap());
        instance.endpoints.push("http://10.0.0.1:80".parse().unwrap());
        instance
    }

    #[test]
    fn the_key_format_is_api() {
        let native = Native::new("meshwork").unwrap();
        let records = native.encode("prod", &user(), 1).unwrap();
        assert_eq!(records[0].0, "/meshwork/prod/instances/user/user-1");
        assert!(native.prefix("prod", &user().service).ends_with('/'));
    }

    #[test]
    fn slashes_around_the_prefix_do_not_matter() {
        for prefix in ["a/b", "/a/b", "a/b/", "/a/b/"] {
            assert_eq!(Native::new(prefix).unwrap().prefix("e", &user().service), "/a/b/e/instances/user/");
        }
        for bad in ["", "/", "a//b", "..", "a b"] {
            assert!(Native::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_record_must_be_what_its_key_says() {
        let native = Native::new("meshwork").unwrap();
        let (key, value) = native.encode("prod", &user(), 1).unwrap().remove(0);
        let decode = |key: &str| native.decode(&Record { key, value: &value, lease: None });
        assert!(matches!(decode(&key), Decoded::Instance(_)));
        let misplaced = decode("/meshwork/prod/instances/user/user-2");
        assert!(
            matches!(misplaced, Decoded::Refused { reason, .. } if reason.kind() == RefusalKind::Misplaced)
        );
        for foreign in ["/other/prod/instances/user/user-1", "/meshwork/prod/documents/x", "user-1", ""] {
            assert!(matches!(decode(foreign), Decoded::NotMine), "{foreign}");
        }
    }
}
