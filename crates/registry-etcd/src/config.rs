//! `[registry.etcd]`: the table that configures this registry.

use std::{fmt, path::PathBuf, time::Duration};

use meshwork_core::{Error, Native, ServiceName};
use meshwork_registry::{Secret, durations};
use meshwork_tls::{ClientTls, TlsConfig};
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
/// endpoints = ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]
/// lease_ttl = "15s"
/// user = "orders"
/// password_file = "/run/secrets/etcd-password"
///
/// [registry.etcd.tls]
/// ca_file = "/etc/ssl/etcd-ca.pem"
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// The members, `http://host:port` or `https://host:port`; a list, or one text separated by commas.
    /// Without a scheme it is `https` when anything of `tls` is set, else `http`.
    /// Live: a change in the file holds without a restart. Default: `http://127.0.0.1:2379`.
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
    /// The user that we log in as, where etcd asks for one; it takes `password` or `password_file`, and
    /// `https`, if nobody is to read the password on the way. Default: none (etcd may know us by the
    /// common name of a client certificate).
    pub user: Option<String>,
    /// The password of `user`. Default: `password_file`.
    pub password: Option<Secret>,
    /// A file with the password of `user`; it is read again at every login. Default: none.
    pub password_file: Option<PathBuf>,
    /// How long we wait after an answer that waiting cannot mend (wrong password, no permission) before we
    /// ask again; a changed `password_file` is tried at the next asking. 1 s to 1 h. Default: `1m`.
    #[serde(with = "durations")]
    pub denied_retry: Duration,
    /// TLS towards `https` endpoints. The files are read again for new connections; while one of them cannot be
    /// used, what was read before is.
    pub tls: TlsConfig,
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
            user: None,
            password: None,
            password_file: None,
            denied_retry: Duration::from_secs(60),
            tls: TlsConfig::default(),
        }
    }
}

impl EtcdConfig {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// [`Invalid`](meshwork_core::ErrorKind::Invalid) naming the key.
    pub fn check(&self) -> Result<(), Error> {
        let addresses = self.addresses()?;
        if self.tls.is_set() && !addresses.iter().any(|address| is_https(address)) {
            return Err(Error::invalid("etcd `tls` is set, but no address of `endpoints` is https"));
        }
        self.check_security()?;
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
        within("relist_every", self.relist_every, Duration::from_secs(1), Duration::from_secs(86_400))?;
        within("denied_retry", self.denied_retry, Duration::from_secs(1), Duration::from_secs(3600))
    }

    /// What TLS is made of.
    ///
    /// # Errors
    /// `Invalid` naming the key of `tls`.
    pub(crate) fn client_tls(&self) -> Result<ClientTls, Error> {
        ClientTls::new("etcd `tls`", self.tls.clone())
    }

    fn check_security(&self) -> Result<(), Error> {
        self.client_tls()?;
        let text = match (&self.user, &self.password, &self.password_file) {
            (None, None, None) => return Ok(()),
            (None, ..) => "etcd has a password, but no `user`",
            (Some(user), ..) if user.is_empty() => "etcd `user` is empty",
            (Some(_), Some(_), None) | (Some(_), None, Some(_)) => return Ok(()),
            (Some(_), None, None) => "etcd `user` takes `password` or `password_file`",
            (Some(_), Some(_), Some(_)) => "etcd has `password` and `password_file`: set one of them",
        };
        Err(Error::invalid(text))
    }

    /// The addresses of `endpoints`, each with its scheme, each once.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub(crate) fn addresses(&self) -> Result<Vec<Box<str>>, Error> {
        addresses(&self.endpoints, self.default_scheme())
    }

    /// The scheme of an endpoint that names none.
    pub(crate) fn default_scheme(&self) -> &'static str {
        if self.tls.is_set() { "https" } else { "http" }
    }

    /// The time to live as etcd takes it.
    pub(crate) fn ttl_seconds(&self) -> i64 {
        self.lease_ttl.as_millis().div_ceil(1000) as i64
    }
}

/// The addresses of members, each with its scheme, each once.
pub(crate) fn addresses(endpoints: &[String], default_scheme: &str) -> Result<Vec<Box<str>>, Error> {
    let mut all: Vec<Box<str>> = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let address = address(endpoint, default_scheme)?.into_boxed_str();
        if !all.contains(&address) {
            all.push(address);
        }
    }
    if all.is_empty() { Err(Error::invalid("etcd `endpoints` is empty")) } else { Ok(all) }
}

/// The address of a member with its scheme.
pub(crate) fn address(text: &str, default_scheme: &str) -> Result<String, Error> {
    let full = if text.contains("://") { text.to_owned() } else { format!("{default_scheme}://{text}") };
    // What stands before an `@` may be a password.
    let (user, bare) = text.rsplit_once('@').map_or(("", text), |(_, bare)| ("…@", bare));
    let shown = format!("{user}{}", bare.escape_debug());
    let uri: Uri =
        full.parse().map_err(|e| Error::invalid(format!("etcd endpoint `{shown}`")).with_source(e))?;
    let has_user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if has_user {
        let text = format!("etcd endpoint `{shown}` takes no user: set `user` and `password_file`");
        return Err(Error::invalid(text));
    }
    match (uri.scheme_str(), uri.port_u16(), uri.path()) {
        (Some("http" | "https"), Some(1..), "" | "/") => Ok(full.trim_end_matches('/').to_owned()),
        _ => Err(Error::invalid(format!(
            "etcd endpoint `{shown}` is not http://host:port or https://host:port"
        ))),
    }
}

/// Whether TLS is spoken to this address.
pub(crate) fn is_https(address: &str) -> bool {
    address.starts_with("https://")
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
    fn a_password_in_an_endpoint_is_not_shown() {
        let config = read(r#"{"endpoints":"http://root:s3cret@a:1"}"#).unwrap();
        let said = config.check().unwrap_err().to_string();
        assert!(!said.contains("s3cret") && said.contains("a:1") && said.contains("`user`"), "{said}");
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
    fn an_address_without_scheme_speaks_tls_when_tls_is_set() {
        let scheme = |json: &str| read(json).unwrap().addresses().unwrap()[0].clone();
        assert_eq!(&*scheme(r#"{"endpoints":"a:1"}"#), "http://a:1");
        assert_eq!(&*scheme(r#"{"endpoints":"a:1","tls":{"ca_file":"/x"}}"#), "https://a:1");
    }

    #[test]
    fn a_password_is_never_shown() {
        let config = read(r#"{"user":"u","password":"s3cret"}"#).unwrap();
        config.check().unwrap();
        assert_eq!(config.password.as_ref().map(Secret::reveal), Some("s3cret"));
        assert!(!format!("{config:?}").contains("s3cret"));
        assert!(!serde_json::to_string(&config).unwrap().contains("s3cret"));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        let refused = |json: &str| read(json).unwrap().check().unwrap_err();
        for (json, key) in [
            (r#"{"endpoints":[]}"#, "endpoints"),
            (r#"{"lease_ttl":"1s"}"#, "lease_ttl"),
            (r#"{"attempt_timeout":"9s"}"#, "attempt_timeout"),
            (r#"{"denied_retry":"1ms"}"#, "denied_retry"),
            (r#"{"user":"u"}"#, "password_file"),
            (r#"{"user":"","password":"x"}"#, "user"),
            (r#"{"password":"x"}"#, "user"),
            (r#"{"user":"u","password":"x","password_file":"/x"}"#, "password_file"),
            (r#"{"endpoints":"https://a:1","tls":{"cert_file":"x"}}"#, "key_file"),
            (r#"{"endpoints":"http://a:1","tls":{"ca_file":"x"}}"#, "tls"),
        ] {
            let error = refused(json).to_string();
            assert!(error.contains(key), "{json}: {error}");
        }
        for bad in ["", "a", "ftp://a:1", "http://a", "http://a:0", "http://a:1/x", "a b:1", "http://u:p@a:1"]
        {
            let error = address(bad, "http").unwrap_err().to_string();
            assert!(error.contains("endpoint"), "{bad}");
        }
        assert_eq!(address("a:1", "http").unwrap(), "http://a:1");
        assert!(environment("..").is_err() && environment("a/b").is_err());
    }
}
