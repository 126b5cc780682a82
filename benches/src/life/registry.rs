//! The registries that a greeter is announced in.

use std::{any::Any, fs, path::Path};

use meshwork_core::BoxError;
use meshwork_testkit::{consul::Consul, etcd::Etcd};

/// What the configuration of a greeter says of its registry, and what must live as long.
pub(super) struct Registry {
    pub(super) name: &'static str,
    toml: String,
    _server: Option<Box<dyn Any>>,
}

impl Registry {
    /// A directory.
    pub(super) fn local(dir: &Path) -> Self {
        let toml = format!("use = \"local\"\n[registry.local]\ndir = {:?}", dir.join("registry"));
        Self { name: "local", toml, _server: None }
    }

    /// An etcd of one member.
    pub(super) async fn etcd() -> Result<Self, BoxError> {
        let etcd = Etcd::single().start().await?;
        let toml = format!("use = \"etcd\"\n[registry.etcd]\nendpoints = {:?}", etcd.endpoints());
        Ok(Self { name: "etcd", toml, _server: Some(Box::new(etcd)) })
    }

    /// An agent that is server and client.
    pub(super) async fn consul() -> Result<Self, BoxError> {
        let consul = Consul::dev().start().await?;
        let toml = format!("use = \"consul\"\n[registry.consul]\naddress = {:?}", consul.url());
        Ok(Self { name: "consul", toml, _server: Some(Box::new(consul)) })
    }

    /// Writes the configuration of a greeter into `dir`.
    pub(super) fn configure(&self, dir: &Path) -> Result<(), BoxError> {
        let text = format!("[service]\nname = \"greeter\"\n[registry]\n{}\n", self.toml);
        Ok(fs::write(dir.join("default.toml"), text)?)
    }
}
