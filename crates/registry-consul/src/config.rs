//! `[registry.consul]`: the table that configures this registry.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use meshwork_core::{Error, Host};
use meshwork_registry::{Secret, durations};
use meshwork_tls::{ClientTls, TlsConfig};
use serde::{Deserialize, Serialize};

use crate::{address::Address, checks::Check, names::Names, texts};

const DEFAULT_ADDRESS: &str = "http://127.0.0.1:8500";
/// With what is asked beside them, the 200 connections that Consul takes from one client.
const MOST_QUERIES: usize = 160;
/// Consul's own rule.
const MIN_DEREGISTER: Duration = Duration::from_secs(60);

/// The settings of [`Consul`](crate::Consul), as in a configuration file:
///
/// ```toml
/// [registry.consul]
/// address = "http://127.0.0.1:8500"
/// token_file = "/run/secrets/consul-token"
/// datacenters = ["dc1", "dc2"]
/// checks = [{ kind = "ttl" }, { kind = "http", path = "/.meshwork/ready", interval = "5s" }]
/// ```
///
/// What is not set is taken from the variables that all Consul tools know, where there is one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct ConsulConfig {
    /// The local agent: `http://host:port`, `https://host:port`, `host:port` or `unix:///path`.
    /// Default: `CONSUL_HTTP_ADDR`, else `http://127.0.0.1:8500`.
    pub address: Option<String>,
    /// The ACL token. Default: `token_file`, else `CONSUL_HTTP_TOKEN`.
    pub token: Option<Secret>,
    /// A file with the ACL token; it is read again when it has changed. Default: `CONSUL_HTTP_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,
    /// The namespace (Consul Enterprise). Default: `CONSUL_NAMESPACE`, else the token's.
    pub namespace: Option<String>,
    /// The admin partition (Consul Enterprise). Default: `CONSUL_PARTITION`, else the agent's.
    pub partition: Option<String>,
    /// Where services are looked for, in this order: the next one is used while those before it have no
    /// usable instance or cannot be reached for 10 s. Default: the agent's own datacenter only.
    #[serde(deserialize_with = "texts::deserialize")]
    pub datacenters: Vec<String>,
    /// TLS towards an `https` address; the files are read again when they have changed. What is not set is
    /// taken from `CONSUL_CACERT`, `CONSUL_CLIENT_CERT`, `CONSUL_CLIENT_KEY` and `CONSUL_TLS_SERVER_NAME`.
    pub tls: TlsConfig,
    /// The health checks of what is announced. Default: one of kind `ttl`.
    pub checks: Vec<Check>,
    /// The time to live of a check of kind `ttl`: how long a dead instance stays in views at most;
    /// 2 s to 1 h. A third of it passes between two heartbeats. Default: `15s`.
    #[serde(with = "durations")]
    pub ttl: Duration,
    /// How long an instance may be critical until the agent removes it; at least 1 min (Consul looks
    /// every 30 s). Default: `1m`.
    #[serde(with = "durations")]
    pub deregister_after: Duration,
    /// Tags of what is announced.
    #[serde(deserialize_with = "texts::deserialize")]
    pub tags: Vec<String>,
    /// The address (no port) at which other datacenters reach what is announced; written as the tagged
    /// address `wan`. Default: none.
    pub wan_address: Option<String>,
    /// What happens to names that Consul's DNS cannot carry: `map` or `refuse`. Default: `map`.
    pub names: Names,
    /// How current an answer must be: `default`, `stale` or `consistent`. Default: `default`.
    pub reads: Reads,
    /// The oldest answer that `stale` reads take; older ones are asked for again at the leader.
    /// Default: `5s`.
    #[serde(with = "durations")]
    pub max_stale: Duration,
    /// Sorts answers by the round trip from this node; `_agent` is the agent's. Default: unsorted.
    pub near: Option<String>,
    /// Whether only instances are asked for all of whose checks pass: less to transfer, but an instance in
    /// maintenance is absent then instead of unready. Default: false.
    pub passing: bool,
    /// Whether instances with a check in `warning` are used. Default: true.
    pub use_warning: bool,
    /// How long a blocking query waits for a change; 1 s to 10 min. Default: `30s`.
    #[serde(with = "durations")]
    pub wait: Duration,
    /// The longest that any other request may take, and what a blocking query may take beyond its wait;
    /// 100 ms to 1 min. Default: `3s`.
    #[serde(with = "durations")]
    pub request_timeout: Duration,
    /// How many blocking queries are open at once over HTTP/1, one connection each; further services take
    /// turns. Consul itself allows 200 connections per client. With TLS it is HTTP/2, and hundreds share
    /// one connection. 1 to 160. Default: 150.
    pub max_queries: usize,
}

/// How current an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reads {
    /// The leader's, which may be one that does not yet know that it was replaced.
    #[default]
    Default,
    /// Any server's, unless it is older than `max_stale`, has no leader, or is older than what we know.
    /// The first answer of a view is the leader's all the same.
    Stale,
    /// The leader's, confirmed by the quorum.
    Consistent,
}

impl Default for ConsulConfig {
    fn default() -> Self {
        Self {
            address: None,
            token: None,
            token_file: None,
            namespace: None,
            partition: None,
            datacenters: Vec::new(),
            tls: TlsConfig::default(),
            checks: vec![Check::default()],
            ttl: Duration::from_secs(15),
            deregister_after: MIN_DEREGISTER,
            tags: Vec::new(),
            wan_address: None,
            names: Names::default(),
            reads: Reads::default(),
            max_stale: Duration::from_secs(5),
            near: None,
            passing: false,
            use_warning: true,
            wait: Duration::from_secs(30),
            request_timeout: Duration::from_secs(3),
            max_queries: 150,
        }
    }
}

impl ConsulConfig {
    /// The same with what is not set taken from `CONSUL_*` as `variable` knows them.
    #[must_use]
    pub(crate) fn or_from(mut self, variable: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        self.address = self.address.or_else(|| set("CONSUL_HTTP_ADDR"));
        if self.token.is_none() && self.token_file.is_none() {
            self.token = set("CONSUL_HTTP_TOKEN").map(|token| Secret::from(token.trim()));
            self.token_file = set("CONSUL_HTTP_TOKEN_FILE").map(PathBuf::from);
        }
        self.namespace = self.namespace.or_else(|| set("CONSUL_NAMESPACE"));
        self.partition = self.partition.or_else(|| set("CONSUL_PARTITION"));
        let tls = &mut self.tls;
        let file = |own: Option<PathBuf>, name: &str| own.or_else(|| set(name).map(PathBuf::from));
        tls.ca_file = file(tls.ca_file.take(), "CONSUL_CACERT");
        if tls.cert_file.is_none() && tls.key_file.is_none() {
            tls.cert_file = file(None, "CONSUL_CLIENT_CERT");
            tls.key_file = file(None, "CONSUL_CLIENT_KEY");
        }
        tls.server_name = tls.server_name.take().or_else(|| set("CONSUL_TLS_SERVER_NAME"));
        self
    }

    /// What TLS is made of.
    ///
    /// # Errors
    /// `Invalid` naming the key of `tls`.
    pub(crate) fn client_tls(&self) -> Result<ClientTls, Error> {
        ClientTls::new("consul `tls`", self.tls.clone())
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`Invalid`](meshwork_core::ErrorKind::Invalid) naming the key.
    pub fn check(&self) -> Result<(), Error> {
        self.address()?;
        let within = |key: &str, value: Duration, least: Duration, most: Duration| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            let shown = humantime::format_duration;
            let (value, least, most) = (shown(value), shown(least), shown(most));
            Err(Error::invalid(format!("consul `{key}` = {value} is not between {least} and {most}")))
        };
        let seconds = Duration::from_secs;
        within("ttl", self.ttl, seconds(2), seconds(3600))?;
        within("deregister_after", self.deregister_after, MIN_DEREGISTER, seconds(30 * 86_400))?;
        within("wait", self.wait, seconds(1), seconds(600))?;
        within("request_timeout", self.request_timeout, Duration::from_millis(100), seconds(60))?;
        within("max_stale", self.max_stale, Duration::ZERO, seconds(600))?;
        if !(1..=MOST_QUERIES).contains(&self.max_queries) {
            let text =
                format!("consul `max_queries` = {} is not between 1 and {MOST_QUERIES}", self.max_queries);
            return Err(Error::invalid(text));
        }
        self.client_tls()?;
        if let Some(wan) = &self.wan_address {
            wan.parse::<Host>().map_err(|e| Error::invalid("consul `wan_address`").with_source(e))?;
        }
        if self.checks.is_empty() {
            return Err(Error::invalid("consul `checks` is empty: a dead instance would stay for ever"));
        }
        let kinds: BTreeSet<_> = self.checks.iter().map(|check| check.kind).collect();
        if kinds.len() != self.checks.len() {
            return Err(Error::invalid("consul `checks` has two of one kind: give each kind once"));
        }
        self.checks.iter().try_for_each(Check::check)
    }

    pub(crate) fn address(&self) -> Result<Address, Error> {
        Address::parse(self.address.as_deref().unwrap_or(DEFAULT_ADDRESS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::Kind;

    fn read(json: &str) -> Result<ConsulConfig, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn an_empty_table_runs() {
        let config = read("{}").unwrap();
        assert_eq!(config, ConsulConfig::default());
        config.check().unwrap();
        assert_eq!(config.address().unwrap().to_string(), "http://127.0.0.1:8500");
    }

    #[test]
    fn keys_are_as_documented_and_others_are_refused() {
        let config = read(
            r#"{"address":"https://c:1","token":"s3cret","datacenters":"a, b","reads":"stale","names":"refuse",
                "checks":[{"kind":"ttl"},{"kind":"http","path":"/x","interval":"5s"}],"ttl":"2500ms"}"#,
        )
        .unwrap();
        config.check().unwrap();
        assert_eq!((config.datacenters.len(), config.checks[1].kind), (2, Kind::Http));
        assert!(!format!("{config:?}").contains("s3cret"));
        assert!(!serde_json::to_string(&config).unwrap().contains("s3cret"));
        assert!(read(r#"{"tokenfile":"x"}"#).unwrap_err().contains("token_file"));
        assert!(read(r#"{"ttl":3}"#).unwrap_err().contains("15s"));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (json, key) in [
            (r#"{"address":"ftp://x"}"#, "address"),
            (r#"{"ttl":"1s"}"#, "ttl"),
            (r#"{"deregister_after":"10s"}"#, "deregister_after"),
            (r#"{"wait":"10ms"}"#, "wait"),
            (r#"{"max_queries":0}"#, "max_queries"),
            (r#"{"max_queries":161}"#, "max_queries"),
            (r#"{"tls":{"cert_file":"x"}}"#, "key_file"),
            (r#"{"wan_address":"a b"}"#, "wan_address"),
            (r#"{"checks":[]}"#, "checks"),
            (r#"{"checks":[{"kind":"ttl"},{"kind":"ttl"}]}"#, "checks"),
            (r#"{"checks":[{"kind":"script"}]}"#, "args"),
        ] {
            let error = read(json).unwrap().check().unwrap_err().to_string();
            assert!(error.contains(key), "{json}: {error}");
        }
    }

    #[test]
    fn the_variables_of_consul_fill_what_is_not_set() {
        let variable = |name: &str| match name {
            "CONSUL_HTTP_ADDR" => Some("unix:///c.sock".to_owned()),
            "CONSUL_HTTP_TOKEN" => Some("from-env".to_owned()),
            "CONSUL_NAMESPACE" => Some(" ".to_owned()),
            _ => None,
        };
        let config = ConsulConfig::default().or_from(variable);
        assert_eq!(config.address.as_deref(), Some("unix:///c.sock"));
        assert_eq!(config.token.as_ref().map(Secret::reveal), Some("from-env"));
        assert_eq!(config.namespace, None);
        let own = read(r#"{"token_file":"/t","address":"a:1"}"#).unwrap().or_from(variable);
        assert_eq!((own.token, own.address.as_deref()), (None, Some("a:1")));
    }
}
