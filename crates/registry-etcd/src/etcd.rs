//! The backend as an application writes it down.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use meshwork_core::{Backend, Dialect, Error, Native, Parts};
use meshwork_registry::{Driven, DriverOptions, Secret};

use crate::{
    catalog,
    config::{self, EtcdConfig},
    endpoints::Endpoints,
    hub::Hub,
    keys::Keys,
};

/// An etcd cluster as registry.
///
/// ```
/// use meshwork_core::Backend;
/// use meshwork_registry_etcd::Etcd;
///
/// let etcd = Etcd::new(["http://127.0.0.1:2379"]).with_env("prod");
/// let parts = etcd.open()?;                       // no I/O yet
/// assert!(parts.registry.is_some() && parts.discovery.is_some() && parts.catalog.is_some());
/// # Ok::<(), meshwork_core::Error>(())
/// ```
///
/// # User and role
/// Where etcd asks for a user, a role that may read and write the prefix is enough:
///
/// ```sh
/// etcdctl user add orders                         # asks for the password
/// etcdctl role add meshwork
/// etcdctl role grant-permission meshwork --prefix=true readwrite /meshwork/
/// etcdctl user grant-role orders meshwork
/// ```
///
/// Who only finds needs `read`. Each [dialect](Self::also_writing) needs its own prefix besides.
/// [Synced members](Self::with_synced_members) need no permission, but some user.
#[derive(Clone)]
pub struct Etcd {
    config: EtcdConfig,
    endpoints: Endpoints,
    env: Box<str>,
    also_written: Vec<Arc<dyn Dialect>>,
}

impl Etcd {
    /// The cluster with these members, `http://host:port` or `https://host:port` each; several are used one
    /// at a time, the next when one fails.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        let endpoints = endpoints.into_iter().map(Into::into).collect();
        Self::with_config(EtcdConfig { endpoints, ..EtcdConfig::default() })
    }

    /// With the settings of a `[registry.etcd]` table.
    pub fn with_config(config: EtcdConfig) -> Self {
        let endpoints = Endpoints::of(&config);
        Self { config, endpoints, env: "dev".into(), also_written: Vec::new() }
    }

    /// What all keys begin with. Default: `meshwork`.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.config.prefix = prefix.into();
        self
    }

    /// The environment whose instances are found, and in which those are announced that name none.
    /// Default: `dev`.
    #[must_use]
    pub fn with_env(mut self, env: impl Into<Box<str>>) -> Self {
        self.env = env.into();
        self
    }

    /// How long a dead instance stays listed at most; whole seconds, rounded up, 2 s to 1 h. Default: 15 s.
    #[must_use]
    pub fn with_lease_ttl(mut self, ttl: Duration) -> Self {
        self.config.lease_ttl = ttl;
        self
    }

    /// The longest that one operation may take, with all attempts; 100 ms to 1 min. Default: 3 s. An
    /// attempt timeout above it comes down with it.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self.config.attempt_timeout = self.config.attempt_timeout.min(timeout);
        self
    }

    /// The longest that one attempt at one member may take. Default: 2 s.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.config.attempt_timeout = timeout;
        self
    }

    /// How often everything is read again and compared, give or take a third; 1 s to 1 day. Default: 7.5 min.
    #[must_use]
    pub fn with_relist_every(mut self, every: Duration) -> Self {
        self.config.relist_every = every;
        self
    }

    /// Also uses the addresses that the members advertise, read once a minute. Default: off.
    #[must_use]
    pub fn with_synced_members(mut self) -> Self {
        self.config.sync_members = true;
        self
    }

    /// The user that we log in as.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>, password: impl Into<Secret>) -> Self {
        (self.config.user, self.config.password) = (Some(user.into()), Some(password.into()));
        self.config.password_file = None;
        self
    }

    /// The user that we log in as, and a file with his password, read again at every login.
    #[must_use]
    pub fn with_password_file(mut self, user: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        (self.config.user, self.config.password_file) = (Some(user.into()), Some(file.into()));
        self.config.password = None;
        self
    }

    /// How long we wait after a wrong password or a missing permission before we ask again; 1 s to 1 h.
    /// Default: 1 min.
    #[must_use]
    pub fn with_denied_retry(mut self, every: Duration) -> Self {
        self.config.denied_retry = every;
        self
    }

    /// PEM certificates that sign the members'. Default: the machine's.
    #[must_use]
    pub fn with_ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.config.tls.ca_file = Some(file.into());
        self.reread()
    }

    /// The certificate and the key that we show, PEM. etcd may take its common name for our user.
    #[must_use]
    pub fn with_client_certificate(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.config.tls.cert_file = Some(cert.into());
        self.config.tls.key_file = Some(key.into());
        self.reread()
    }

    /// The name that the members' certificates must have. Default: the host of the endpoint.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.config.tls.server_name = Some(name.into());
        self.reread()
    }

    /// The endpoints, to be replaced while the registry is in use. Take it after the last `with_…`.
    pub fn endpoints(&self) -> Endpoints {
        self.endpoints.clone()
    }

    /// TLS decides what an endpoint without a scheme means.
    fn reread(mut self) -> Self {
        self.endpoints = Endpoints::of(&self.config);
        self
    }

    /// Also writes the records of this dialect, in the same transaction and under the same lease. What is
    /// read stays our own.
    #[must_use]
    pub fn also_writing(mut self, dialect: impl Dialect) -> Self {
        self.also_written.push(Arc::new(dialect));
        self
    }

    /// Its settings.
    pub fn config(&self) -> &EtcdConfig {
        &self.config
    }
}

impl Backend for Etcd {
    fn open(&self) -> Result<Parts, Error> {
        self.config.check()?;
        config::environment(&self.env)?;
        let mut dialects: Vec<Arc<dyn Dialect>> = vec![Arc::new(Native::new(&self.config.prefix)?)];
        dialects.extend(self.also_written.iter().cloned());
        let prefix = self.config.prefix.trim_matches('/');
        let keys = Keys { root: format!("/{prefix}/").into(), env: self.env.clone(), dialects };
        let ttl = Duration::from_secs(self.config.ttl_seconds().unsigned_abs());
        let mut options = DriverOptions::default().with_ttl(ttl);
        options.request_timeout = self.config.request_timeout;
        // Views come back as soon as claims do: all wait for the same connection.
        options.healing.cap = (ttl / 4).min(options.healing.cap);
        options.healing.slow = self.config.denied_retry;
        let description = format!("etcd {} /{prefix}/{}/", self.endpoints.latest().join(","), self.env);
        let hub = Hub::new(self.config.clone(), self.endpoints.clone(), keys)?;
        let services = catalog::services(hub.clone());
        let driven = Driven::new(hub, options);
        Ok(Parts::new(description)
            .with_registry(driven.registry())
            .with_discovery(driven.discovery())
            .with_catalog(Arc::new(services)))
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("config", &self.config).field("env", &self.env).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::ErrorKind;

    use super::*;

    #[test]
    fn opening_judges_the_settings_and_does_nothing_else() {
        let parts = Etcd::new(["127.0.0.1:1"]).with_env("prod").open().unwrap();
        assert_eq!(&*parts.description, "etcd 127.0.0.1:1 /meshwork/prod/");
        let refused = |etcd: Etcd| etcd.open().err().map(|e| e.kind());
        assert_eq!(refused(Etcd::new(Vec::<String>::new())), Some(ErrorKind::Invalid));
        assert_eq!(refused(Etcd::new(["a:1"]).with_env("a/b")), Some(ErrorKind::Invalid));
        assert_eq!(refused(Etcd::new(["a:1"]).with_prefix("..")), Some(ErrorKind::Invalid));
        let nameless = Etcd::new(["https://a:1"]).with_server_name("a b");
        assert_eq!(refused(nameless), Some(ErrorKind::Invalid));
        assert!(
            Etcd::new(["a:1"]).with_ca_file("/none").open().is_ok(),
            "files are read when they are needed"
        );
    }
}
