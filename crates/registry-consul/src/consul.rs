//! The backend as an application writes it down.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use meshwork_core::{Backend, Error, ErrorKind, Parts, ServiceName};
use meshwork_registry::{Driven, DriverOptions, Secret};

use crate::{
    agent::Agent,
    catalog,
    checks::Check,
    config::{ConsulConfig, Reads},
    hub::Hub,
};

/// A Consul as registry, by its local agent.
///
/// ```
/// use meshwork_core::Backend;
/// use meshwork_registry_consul::Consul;
///
/// let consul = Consul::new("http://127.0.0.1:8500").with_env("prod").with_datacenters(["dc1", "dc2"]);
/// let parts = consul.open()?;                     // no I/O yet
/// assert!(parts.registry.is_some() && parts.discovery.is_some() && parts.catalog.is_some());
/// # Ok::<(), meshwork_core::Error>(())
/// ```
///
/// Queries know the parameters `dc` and `tag` (lists with commas; all tags must be there), `near`, `ns`,
/// `partition`, `passing`, `reads` (`default`, `stale`, `consistent`) and `protocol` (of foreign instances that do
/// not say theirs).
#[derive(Clone)]
pub struct Consul {
    config: ConsulConfig,
    env: Box<str>,
}

impl Consul {
    /// The agent at this address: `http://host:port`, `https://host:port` or `unix:///path`.
    pub fn new(address: impl Into<String>) -> Self {
        ConsulConfig { address: Some(address.into()), ..ConsulConfig::default() }.into()
    }

    /// With the settings of a configuration file.
    pub fn with_config(config: ConsulConfig) -> Self {
        config.into()
    }

    /// The environment whose native instances are found. Default: `dev`. Consul itself knows none: foreign
    /// instances are found in every environment.
    #[must_use]
    pub fn with_env(mut self, env: impl Into<Box<str>>) -> Self {
        self.env = env.into();
        self
    }

    /// The ACL token.
    #[must_use]
    pub fn with_token(mut self, token: impl Into<Secret>) -> Self {
        self.config.token = Some(token.into());
        self
    }

    /// A file with the ACL token; it is read again when it has changed.
    #[must_use]
    pub fn with_token_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.config.token_file = Some(file.into());
        self
    }

    /// PEM certificates that sign the agent's.
    #[must_use]
    pub fn with_ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.config.tls.ca_file = Some(file.into());
        self
    }

    /// The certificate and the key that we show, PEM.
    #[must_use]
    pub fn with_client_certificate(mut self, cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.config.tls.cert_file = Some(cert.into());
        self.config.tls.key_file = Some(key.into());
        self
    }

    /// The name that the agent's certificate must have. Default: the host of the address.
    #[must_use]
    pub fn with_server_name(mut self, name: impl Into<String>) -> Self {
        self.config.tls.server_name = Some(name.into());
        self
    }

    /// Where services are looked for, in this order. Default: the agent's own datacenter only.
    #[must_use]
    pub fn with_datacenters<D: Into<String>>(mut self, datacenters: impl IntoIterator<Item = D>) -> Self {
        self.config.datacenters = datacenters.into_iter().map(Into::into).collect();
        self
    }

    /// The health checks of what is announced, instead of one of kind `ttl`.
    #[must_use]
    pub fn with_checks(mut self, checks: impl IntoIterator<Item = Check>) -> Self {
        self.config.checks = checks.into_iter().collect();
        self
    }

    /// Tags of what is announced.
    #[must_use]
    pub fn with_tags<T: Into<String>>(mut self, tags: impl IntoIterator<Item = T>) -> Self {
        self.config.tags = tags.into_iter().map(Into::into).collect();
        self
    }

    /// How long a dead instance stays in views at most; 2 s to 1 h. Default: 15 s.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.config.ttl = ttl;
        self
    }

    /// How current answers must be. Default: [`Reads::Default`].
    #[must_use]
    pub fn with_reads(mut self, reads: Reads) -> Self {
        self.config.reads = reads;
        self
    }

    /// The longest that a request may take; 100 ms to 1 min. Default: 3 s.
    #[must_use]
    pub fn with_request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// How long a blocking query waits for a change; 1 s to 10 min. Default: 30 s.
    #[must_use]
    pub fn with_wait(mut self, wait: Duration) -> Self {
        self.config.wait = wait;
        self
    }

    /// Its settings, as they were given.
    pub fn config(&self) -> &ConsulConfig {
        &self.config
    }

    /// A client of `rs-consul` with the same address, token and certificates, for the key-value store, the
    /// catalog and ACL. Its connections are pooled. The token is the one of this moment.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) over a Unix socket; [`Invalid`](ErrorKind::Invalid) when token or
    /// certificates cannot be read.
    ///
    /// # Cancel safety
    /// Dropping the future does nothing.
    pub async fn client(&self) -> Result<rs_consul::Consul, Error> {
        let config = self.settled()?;
        let (address, agent) = (config.address()?, Agent::new(config)?);
        let transport = agent.transport().await?;
        let client = transport.https().ok_or_else(|| {
            Error::new(
                ErrorKind::Unsupported,
                format!("opening rs-consul at {address}: it speaks over TCP only"),
            )
        })?;
        let token = agent.tokens.current().await?.map(|token| token.reveal().to_owned());
        let config = rs_consul::Config { address: address.base(), token, ..rs_consul::Config::default() };
        Ok(rs_consul::ConsulBuilder::new(config).with_https_client(client).build())
    }

    /// The settings with what the environment adds, if they can work.
    fn settled(&self) -> Result<ConsulConfig, Error> {
        let config = self.config.clone().or_from(|name| std::env::var(name).ok());
        config.check()?;
        Ok(config)
    }
}

impl From<ConsulConfig> for Consul {
    fn from(config: ConsulConfig) -> Self {
        Self { config, env: "dev".into() }
    }
}

impl Backend for Consul {
    fn open(&self) -> Result<Parts, Error> {
        let config = self.settled()?;
        ServiceName::new(&*self.env).map_err(|e| Error::invalid("environment").with_source(e))?;
        let mut options = DriverOptions::default().with_ttl(config.ttl);
        // A claim looks, registers and may change the maintenance; each has the request timeout.
        options.request_timeout = config.request_timeout * 2;
        let mut description = format!("consul {} env {}", config.address()?, self.env);
        if !config.datacenters.is_empty() {
            description.push_str(&format!(" in {}", config.datacenters.join(", ")));
        }
        let agent = Arc::new(Agent::new(config)?);
        let services = catalog::services(Arc::clone(&agent));
        let driven = Driven::new(Hub::new(agent, self.env.clone()), options);
        Ok(Parts::new(description)
            .with_registry(driven.registry())
            .with_discovery(driven.discovery())
            .with_catalog(Arc::new(services)))
    }
}

impl fmt::Debug for Consul {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consul").field("config", &self.config).field("env", &self.env).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_without_io_and_tells_no_secrets() {
        let consul = Consul::new("https://10.0.0.1").with_token("s3cret").with_datacenters(["a", "b"]);
        let parts = consul.open().unwrap();
        assert_eq!(&*parts.description, "consul https://10.0.0.1:8501 env dev in a, b");
        assert!(!format!("{consul:?}").contains("s3cret"));
    }

    #[test]
    fn what_cannot_work_is_refused_at_open() {
        for consul in [
            Consul::new("nowhere://x"),
            Consul::new("a:1").with_ttl(Duration::ZERO),
            Consul::new("a:1").with_env("a/b"),
            Consul::new("a:1").with_checks([]),
        ] {
            let error = consul.open().map(drop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{consul:?}");
        }
    }

    #[tokio::test]
    async fn rs_consul_shares_address_and_pool_but_not_a_unix_socket() {
        Consul::new("http://127.0.0.1:1").with_token("t").client().await.unwrap();
        let error = Consul::new("unix:///none").client().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
