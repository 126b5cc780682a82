//! `[registry.etcd]`: the table that configures this registry.

use std::{fmt, time::Duration};

use meshwork_core::{Error, ErrorKind, Native, ServiceName};
use meshwork_registry::durations;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{SeqAccess, Visitor},
};
use tonic::transport::Uri;

/// The shortest time to live that etcd's own rules leave room for.
pub(crate) const MIN_TTL: Duration = Duration::from_secs(2);
/// The longest time to live: a dead instance should not be listed for longer.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(3600);

/// The settings of [`Etcd`](crate::Etcd), as in a configuration file:
///
/// ```toml
/// [registry.etcd]
/// endpoints = ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]
/// lease_ttl = "15s"
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// The members, `http://host:port` (or `host:port`); a list, or one text separated by commas.
    /// Default: `http://127.0.0.1:2379`.
    #[serde(deserialize_with = "endpoints")]
    pub endpoints: Vec<String>,
    /// What all keys begin with; slashes around it do not matter. Default: `meshwork`.
    pub prefix: String,
    /// The time to live of a lease: how long a dead instance stays listed at most. Whole seconds are
    /// counted, rounded up; 2 s to 1 h. Default: `15s`.
    #[serde(with = "durations")]
    pub lease_ttl: Duration,
    /// The longest that one operation may take, all its attempts included; 100 ms to 1 min. Default: `3s`.
    #[serde(with = "durations")]
    pub request_timeout: Duration,
    /// The longest that one attempt at one member may take, its connect included; at most
    /// `request_timeout`. Default: `2s`.
    #[serde(with = "durations")]
    pub attempt_timeout: Duration,
    /// A complete list is read again and compared after this time, give or take a third. Default: `7m 30s`.
    #[serde(with = "durations")]
    pub relist_every: Duration,
    /// Whether the addresses that the members advertise are used beside `endpoints`. Default: false.
    pub sync_members: bool,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            prefix: "meshwork".to_owned(),
            lease_ttl: Duration::from_secs(15),
            request_timeout: Duration::from_secs(3),
            attempt_timeout: Duration::from_secs(2),
            relist_every: Duration::from_secs(450),
            sync_members: false,
        }
    }
}

impl EtcdConfig {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the key; [`ErrorKind::Unsupported`] for an `https` endpoint.
    pub fn check(&self) -> Result<(), Error> {
        if self.endpoints.is_empty() {
            return Err(Error::invalid("etcd `endpoints` is empty"));
        }
        for endpoint in &self.endpoints {
            address(endpoint)?;
        }
        Native::new(&self.prefix)?;
        let within = |key: &str, value: Duration, least: Duration, most: Duration| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let shown = humantime::format_duration;
            Err(Error::invalid(format!(
                "etcd `{key}` = {} is not between {} and {}",
                shown(value),
                shown(least),
                shown(most)
            )))
        };
        let brief = Duration::from_millis(100);
        within("lease_ttl", self.lease_ttl, MIN_TTL, MAX_TTL)?;
        within("request_timeout", self.request_timeout, brief, Duration::from_secs(60))?;
        within("attempt_timeout", self.attempt_timeout, brief, self.request_timeout)?;
        within("relist_every", self.relist_every, Duration::from_secs(1), Duration::from_secs(86_400))
    }

    /// The time to live as etcd takes it.
    pub(crate) fn ttl_seconds(&self) -> i64 {
        self.lease_ttl.as_millis().div_ceil(1000) as i64
    }
}

/// The address of a member with its scheme.
pub(crate) fn address(text: &str) -> Result<String, Error> {
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let invalid = || Error::invalid(format!("etcd endpoint `{}`", text.escape_debug()));
    let uri: Uri = full.parse().map_err(|e| invalid().with_source(e))?;
    match (uri.scheme_str(), uri.port_u16(), uri.path()) {
        (Some("https"), ..) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("etcd endpoint `{full}` asks for TLS, which this version does not speak yet"),
        )),
        (Some("http"), Some(1..), "" | "/") => Ok(full.trim_end_matches('/').to_owned()),
        _ => Err(Error::invalid(format!("etcd endpoint `{}` is not http://host:port", text.escape_debug()))),
    }
}

/// An environment is a part of keys, so it must be a name.
pub(crate) fn environment(env: &str) -> Result<(), Error> {
    match ServiceName::new(env) {
        Ok(_) => Ok(()),
        Err(e) => {
            Err(Error::invalid(format!("environment `{}` as part of a key", env.escape_debug()))
                .with_source(e))
        }
    }
}

fn endpoints<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    struct Texts;
    impl<'de> Visitor<'de> for Texts {
        type Value = Vec<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of addresses, or one text with commas")
        }

        fn visit_str<E>(self, text: &str) -> Result<Vec<String>, E> {
            Ok(text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<String>, A::Error> {
            let mut all = Vec::new();
            while let Some(one) = list.next_element()? {
                all.push(one);
            }
            Ok(all)
        }
    }
    from.deserialize_any(Texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<EtcdConfig, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_table_runs() {
        let config = read("{}").unwrap();
        assert_eq!(config, EtcdConfig::default());
        config.check().unwrap();
    }

    #[test]
    fn keys_are_as_documented_and_others_are_refused() {
        let config = read(r#"{"endpoints":"a:1, http://b:2","lease_ttl":"1500ms","prefix":"/x/"}"#).unwrap();
        assert_eq!(config.endpoints, ["a:1", "http://b:2"]);
        assert_eq!(config.ttl_seconds(), 2);
        assert!(read(r#"{"leasettl":"3s"}"#).unwrap_err().contains("lease_ttl"));
        assert!(read(r#"{"lease_ttl":3}"#).unwrap_err().contains("15s"));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let refused = |json: &str| read(json).unwrap().check().unwrap_err();
        assert!(refused(r#"{"endpoints":[]}"#).to_string().contains("endpoints"));
        assert!(refused(r#"{"lease_ttl":"1s"}"#).to_string().contains("lease_ttl"));
        assert!(refused(r#"{"attempt_timeout":"9s"}"#).to_string().contains("attempt_timeout"));
        assert_eq!(refused(r#"{"endpoints":["https://a:1"]}"#).kind(), ErrorKind::Unsupported);
        for bad in ["", "a", "ftp://a:1", "http://a", "http://a:0", "http://a:1/x", "a b:1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
        assert_eq!(address("a:1").unwrap(), "http://a:1");
        assert!(environment("..").is_err() && environment("a/b").is_err());
    }
}
