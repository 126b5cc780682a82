//! From a table of `[registry]` or a target to an opened registry: the one place that knows the backends.

use std::sync::Arc;

use meshwork_config::{Config, RegistryTable};
use meshwork_core::{Backend, Discovery, Error, ErrorKind, Parts};
use meshwork_registry::{Fixed, FixedConfig, Local, LocalConfig, Memory, Target, TargetScheme};
#[cfg(feature = "consul")]
use meshwork_registry_consul::{Consul, ConsulConfig};
#[cfg(feature = "etcd")]
use meshwork_registry_etcd::{Etcd, EtcdConfig};

use crate::RunError;

/// The kinds this build knows.
const KINDS: &[&str] = &[
    "local",
    "static",
    "memory",
    #[cfg(feature = "etcd")]
    "etcd",
    #[cfg(feature = "consul")]
    "consul",
];
/// The kinds that a feature of this version brings.
const BEHIND_FEATURES: &[&str] = &["etcd", "consul"];

/// Opens the registry that `[registry] use` names; nothing for `none`.
///
/// # Errors
/// What is wrong in the configuration, or what this build lacks.
pub(crate) fn used(config: &Config, env: &str) -> Result<Parts, RunError> {
    match config.registry().used()? {
        None => Ok(Parts::new("none")),
        Some(table) => open(&table, env),
    }
}

fn open(table: &RegistryTable, env: &str) -> Result<Parts, RunError> {
    let backend: Box<dyn Backend> = match table.kind() {
        "local" => {
            let mut config: LocalConfig = table.extract()?;
            config.env = env.to_owned();
            Box::new(Local::with_config(config))
        }
        "static" => Box::new(Fixed::from_config(table.extract::<FixedConfig>()?)),
        "memory" => Box::new(Memory::new()),
        #[cfg(feature = "etcd")]
        "etcd" => Box::new(Etcd::with_config(table.extract::<EtcdConfig>()?).with_env(env)),
        #[cfg(feature = "consul")]
        "consul" => Box::new(Consul::with_config(table.extract::<ConsulConfig>()?).with_env(env)),
        kind if BEHIND_FEATURES.contains(&kind) && !KINDS.contains(&kind) => {
            let text = format!(
                "this build has no registry of kind `{kind}`\nadd the feature: cargo add meshwork --features {kind}"
            );
            return Err(table.error("", text).into());
        }
        _ => return Err(table.unknown_kind(KINDS).into()),
    };
    Ok(backend.open()?)
}

/// Opens the registry that a target with a scheme names.
///
/// # Errors
/// `Unsupported` for a scheme that this build cannot reach, `Invalid` for what cannot work.
pub(crate) fn target(target: &Target, env: &str) -> Result<Arc<dyn Discovery>, Error> {
    let backend: Box<dyn Backend> = match target.scheme() {
        TargetScheme::Direct => {
            Box::new(Fixed::new().with(target.service().clone(), target.endpoints().iter().cloned()))
        }
        TargetScheme::Local => {
            let mut config = LocalConfig::default();
            config.env = env.to_owned();
            config.dir = target.param("path").map(Into::into);
            Box::new(Local::with_config(config))
        }
        #[cfg(feature = "etcd")]
        TargetScheme::Etcd => {
            let endpoints = target.authorities().iter().map(|authority| format!("http://{authority}"));
            let etcd = Etcd::new(endpoints).with_env(env);
            Box::new(match target.param("prefix") {
                Some(prefix) => etcd.with_prefix(prefix),
                None => etcd,
            })
        }
        #[cfg(feature = "consul")]
        TargetScheme::Consul => {
            let address = target.authorities().first().map_or("127.0.0.1:8500", String::as_str);
            let consul = Consul::new(format!("http://{address}")).with_env(env);
            Box::new(match target.param("token") {
                Some(token) => consul.with_token(token.to_owned()),
                None => consul,
            })
        }
        scheme if BEHIND_FEATURES.contains(&scheme.as_str()) => {
            let kind = scheme.as_str();
            let text = format!(
                "this build cannot open `{target}`; add the feature: cargo add meshwork --features {kind}"
            );
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
        scheme => {
            let text =
                format!("targets of `{}` cannot be opened by this version: `{target}`", scheme.as_str());
            return Err(Error::new(ErrorKind::Unsupported, text));
        }
    };
    let opened = backend.open()?;
    opened.discovery.ok_or_else(|| Error::new(ErrorKind::Unsupported, format!("`{target}` finds nobody")))
}
