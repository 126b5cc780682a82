//! From a table of `[registry]` or a target to an opened registry: the one place that knows the backends.

mod live;

use std::{collections::BTreeMap, sync::Arc};

use meshwork_config::{Config, ConfigError, RegistryTable};
use meshwork_core::{Backend, Discovery, Error, ErrorChain, ErrorKind, Parts};
use meshwork_registry::{
    Dual, DualConfig, DualStats, Fixed, FixedConfig, Local, LocalConfig, Memory, MemoryConfig, Split,
    SplitConfig, Target, TargetScheme,
};
#[cfg(feature = "consul")]
use meshwork_registry_consul::{Consul, ConsulConfig};
#[cfg(feature = "etcd")]
use meshwork_registry_etcd::{Etcd, EtcdConfig};

use crate::{RunError, live::LivePart};

/// The kinds this build knows.
const KINDS: &[&str] = &[
    "dual",
    "split",
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

/// What was opened, and what of it follows the configuration while the app runs.
pub(crate) struct Opened {
    pub(crate) parts: Parts,
    pub(crate) live: Vec<Arc<dyn LivePart>>,
    /// What each dual counts, by the name of its table.
    pub(crate) duals: BTreeMap<Box<str>, Arc<DualStats>>,
}

/// A table as its backend reads it.
enum Settings {
    Local(LocalConfig),
    Static(FixedConfig),
    Memory,
    Dual(DualConfig),
    Split(SplitConfig),
    #[cfg(feature = "etcd")]
    Etcd(Box<EtcdConfig>),
    #[cfg(feature = "consul")]
    Consul(Box<ConsulConfig>),
    /// Of a kind that a feature brings which this build lacks.
    Lacking,
}

/// Reads every table of `[registry]`, also those that nothing leads to.
///
/// # Errors
/// What is wrong in them, and where.
pub(crate) fn read(config: &Config) -> Result<(), RunError> {
    config.registry().tables().try_for_each(|table| settings(table).map(drop))
}

/// Opens the registry that `[registry] use` names, and those it names in turn; nothing for `none`.
///
/// # Errors
/// What is wrong in the configuration, or what this build lacks.
pub(crate) fn used(config: &Config, env: &str) -> Result<Opened, RunError> {
    read(config)?;
    let mut opening =
        Opening { config, env, opened: BTreeMap::new(), live: Vec::new(), duals: BTreeMap::new() };
    let parts = match config.registry().used()? {
        None => Parts::new("none"),
        Some(table) => opening.table(&table)?,
    };
    Ok(Opened { parts, live: opening.live, duals: opening.duals })
}

fn settings(table: &RegistryTable) -> Result<Settings, RunError> {
    Ok(match table.kind() {
        "local" => Settings::Local(table.extract()?),
        "static" => Settings::Static(table.extract()?),
        "memory" => {
            table.extract::<MemoryConfig>()?;
            Settings::Memory
        }
        "dual" => Settings::Dual(table.extract()?),
        "split" => Settings::Split(routes(table)?),
        #[cfg(feature = "etcd")]
        "etcd" => Settings::Etcd(table.extract()?),
        #[cfg(feature = "consul")]
        "consul" => Settings::Consul(table.extract()?),
        kind if BEHIND_FEATURES.contains(&kind) => Settings::Lacking,
        _ => return Err(table.unknown_kind(KINDS).into()),
    })
}

/// The routes of a split, each judged where it stands.
fn routes(table: &RegistryTable) -> Result<SplitConfig, RunError> {
    let split: SplitConfig = table.extract()?;
    for pattern in split.routes.keys() {
        if let Err(error) = Split::check(pattern) {
            return Err(table.error(&format!("routes.\"{pattern}\""), error.to_string()).into());
        }
    }
    Ok(split)
}

/// Opens tables, each once: a registry that is named in two places is one connection.
struct Opening<'a> {
    config: &'a Config,
    env: &'a str,
    opened: BTreeMap<String, Parts>,
    live: Vec<Arc<dyn LivePart>>,
    duals: BTreeMap<Box<str>, Arc<DualStats>>,
}

impl Opening<'_> {
    fn table(&mut self, table: &RegistryTable) -> Result<Parts, RunError> {
        if let Some(opened) = self.opened.get(table.name()) {
            return Ok(opened.clone());
        }
        let backend: Box<dyn Backend> = match settings(table)? {
            Settings::Local(mut config) => {
                config.env = self.env.to_owned();
                Box::new(Local::with_config(config))
            }
            Settings::Static(config) => Box::new(Fixed::from_config(config)),
            Settings::Memory => Box::new(Memory::new()),
            Settings::Dual(config) => {
                let (primary, secondary) = (self.member(&config.primary)?, self.member(&config.secondary)?);
                let dual = Dual::with_config(primary, secondary, &config);
                self.live.push(live::dual(table, dual.steering()));
                self.duals.insert(table.name().into(), Arc::clone(dual.stats()));
                Box::new(dual)
            }
            Settings::Split(config) => {
                let mut split = Split::new(self.member(&config.default)?);
                for (pattern, name) in &config.routes {
                    split = split.route(pattern, self.member(name)?);
                }
                Box::new(split)
            }
            #[cfg(feature = "etcd")]
            Settings::Etcd(config) => {
                let etcd = Etcd::with_config(*config).with_env(self.env);
                self.live.push(live::etcd(table, etcd.endpoints()));
                Box::new(etcd)
            }
            #[cfg(feature = "consul")]
            Settings::Consul(config) => Box::new(Consul::with_config(*config).with_env(self.env)),
            Settings::Lacking => return Err(lacking(table).into()),
        };
        let parts = backend.open().map_err(|error| table.error("", ErrorChain(&error).to_string()))?;
        self.opened.insert(table.name().to_owned(), parts.clone());
        Ok(parts)
    }

    /// The registry that a dual or a split names; the configuration has no circles and no names that lead nowhere.
    fn member(&mut self, name: &str) -> Result<Parts, RunError> {
        match self.config.registry().table(name) {
            Some(table) => self.table(&table),
            None => Err(Error::invalid(format!("no table `[registry.{name}]`")).into()),
        }
    }
}

fn lacking(table: &RegistryTable) -> ConfigError {
    let kind = table.kind();
    let text = format!(
        "this build has no registry of kind `{kind}`\nadd the feature: cargo add meshwork --features {kind}"
    );
    table.error("", text)
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
            let scheme = target.param("scheme").unwrap_or("http");
            let consul = Consul::new(format!("{scheme}://{address}")).with_env(env);
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
