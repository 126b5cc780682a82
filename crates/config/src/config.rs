//! [`Config`]: what the layers come to, section by section.

use crate::{
    env::IgnoredVariable,
    error::{ConfigError, Mistake, Origin},
    extract::{extract, unknown_key},
    key::KeyPath,
    layers::{End, Layers, merge},
    nearest::nearest,
    registry::RegistryConfig,
    schema::{self, ClientConfig, DrainConfig, Review, Reviewed, SECTIONS, ServerConfig, ServiceConfig},
    stamps::Stamps,
};
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

/// The configuration of a process, read once; cheap to clone.
#[derive(Clone)]
pub struct Config(Arc<Inner>);

struct Inner {
    sources: Sources,
    service: ServiceConfig,
    server: ServerConfig,
    drain: DrainConfig,
    default_client: ClientConfig,
    clients: BTreeMap<String, ClientConfig>,
    registry: RegistryConfig,
    /// Sections that the application has read.
    asked: Mutex<BTreeSet<String>>,
}

/// What a configuration was read from.
pub(crate) struct Sources {
    pub(crate) environment: String,
    pub(crate) files: Vec<PathBuf>,
    pub(crate) stamps: Stamps,
    pub(crate) ignored: Vec<IgnoredVariable>,
    pub(crate) layers: Arc<Layers>,
    /// Reads the same sources anew.
    pub(crate) again: Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>,
}

/// True where nobody but the author is calling: defaults are made for trying things out.
pub(crate) fn is_development(environment: &str) -> bool {
    matches!(environment, "dev" | "test")
}

// === impl Config ===

impl Config {
    /// Types and judges every section that is ours.
    pub(crate) fn assemble(sources: Sources) -> Result<Self, ConfigError> {
        let layers = &sources.layers;
        let mut mistakes = stray_keys(layers);
        let service = section(layers, "service", &mut mistakes);
        let server = section(layers, "server", &mut mistakes);
        let drain = section(layers, "drain", &mut mistakes);
        let (default_client, clients) = clients(layers, &mut mistakes);
        let registry = RegistryConfig::read(layers, &sources.environment);
        let registry = registry.map_err(|found| mistakes.extend(found));
        ConfigError::check(mistakes)?;
        let registry = registry.expect("invariant: its mistakes were returned above");
        let asked = Mutex::default();
        Ok(Self(Arc::new(Inner {
            sources,
            service,
            server,
            drain,
            default_client,
            clients,
            registry,
            asked,
        })))
    }

    /// The environment that chose the files: `MESHWORK_ENV`, default `dev`.
    pub fn environment(&self) -> &str {
        &self.0.sources.environment
    }

    /// True in `dev` and `test`, where defaults are made for trying things out.
    pub fn is_development(&self) -> bool {
        is_development(self.environment())
    }

    /// The files that were found and read, lowest layer first.
    pub fn files_used(&self) -> &[PathBuf] {
        &self.0.sources.files
    }

    /// What the files looked like before they were read, those that were not there included.
    pub fn stamps(&self) -> &Stamps {
        &self.0.sources.stamps
    }

    /// Reads the same sources again; what this configuration says stays as it is. Blocks on the files.
    ///
    /// # Errors
    /// Everything that is wrong in them, as at the first time; a file that is gone or empty and was not; a section
    /// that nobody has read and that looks like one of ours.
    pub fn reload(&self) -> Result<Self, ConfigError> {
        let newer = (self.0.sources.again)()?;
        let lost = self.files_used().iter().filter_map(|file| {
            let what = match newer.layers().text(file) {
                None => "gone",
                Some("") if self.layers().text(file) != Some("") => "empty",
                Some(_) => return None,
            };
            let hint = "to take it out of the configuration, leave a comment in it";
            Some(Mistake::new("", format!("the file `{}` is {what}, and was not\n{hint}", file.display())))
        });
        ConfigError::check(lost.collect())?;
        newer.asked().clone_from(&self.asked());
        newer.check_sections()?;
        Ok(newer)
    }

    /// The keys whose values differ in `newer`, in the spelling of [`origin`](Self::origin): sorted, tables taken
    /// apart, lists as a whole.
    pub fn changed_keys(&self, newer: &Self) -> Vec<String> {
        self.layers().changed(newer.layers()).iter().map(ToString::to_string).collect()
    }

    /// Variables that begin with `MESHWORK_` and set nothing: for a warning, once.
    pub fn ignored_variables(&self) -> &[IgnoredVariable] {
        &self.0.sources.ignored
    }

    /// `[service]`.
    pub fn service(&self) -> &ServiceConfig {
        &self.0.service
    }

    /// `[server]`.
    pub fn server(&self) -> &ServerConfig {
        &self.0.server
    }

    /// `[drain]`.
    pub fn drain(&self) -> &DrainConfig {
        &self.0.drain
    }

    /// `[registry]`.
    pub fn registry(&self) -> &RegistryConfig {
        &self.0.registry
    }

    /// `[client.<service>]` over `[client.default]` over the built-in defaults.
    pub fn client(&self, service: &str) -> &ClientConfig {
        self.0.clients.get(service).unwrap_or(&self.0.default_client)
    }

    /// Every service that has a `[client.<service>]`, by name, without `default`.
    pub fn clients(&self) -> impl Iterator<Item = (&str, &ClientConfig)> {
        self.0.clients.iter().map(|(name, client)| (name.as_str(), client))
    }

    /// A section of the application's own, or one below it (`"orders.cache"`). An absent section is read as an empty one. `T` should refuse unknown fields.
    ///
    /// # Errors
    /// Every key that does not fit or is missing, with its place.
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T, ConfigError> {
        let (path, layers) = (KeyPath::parse(name), self.layers());
        if let Some(first) = path.segments().first() {
            self.asked().insert(first.clone());
        }
        let value = layers.value(&path).cloned().unwrap_or_else(|| Value::from(Dict::new()));
        extract(layers, &path, value).map_err(ConfigError::all)
    }

    /// Refuses sections that nobody has read and that look like one of ours, `[sevice]`; to be called when the application has read its own.
    ///
    /// # Errors
    /// Each such section.
    pub fn check_sections(&self) -> Result<(), ConfigError> {
        let (layers, asked) = (self.layers(), self.asked());
        let root = layers.table(&KeyPath::default());
        let unasked = root.keys().filter(|name| !SECTIONS.contains(&name.as_str()) && !asked.contains(*name));
        let alike = unasked.filter_map(|name| {
            let meant = SECTIONS.iter().find(|ours| strsim::damerau_levenshtein(name, ours) <= 2)?;
            let path = KeyPath::default().join(name.as_str());
            let hint = format!("did you mean `{meant}`?");
            let message = format!("unknown section `{name}`");
            Some(layers.mistake(&path, End::Key, message).with_hint(Some(hint)))
        });
        ConfigError::check(alike.collect())
    }

    /// Whether a key stands in one of our sections or in one that the application has read.
    pub fn is_read(&self, key: &str) -> bool {
        let path = KeyPath::parse(key);
        path.segments()
            .first()
            .is_some_and(|first| SECTIONS.contains(&first.as_str()) || self.asked().contains(first))
    }

    /// Where the value of a key was set, `client.users.timeout`. For a client that does not set it, where `[client.default]` does.
    pub fn origin(&self, key: &str) -> Origin {
        let path = KeyPath::parse(key);
        let in_default = || match path.segments() {
            [client, _, rest @ ..] if client == "client" && !rest.is_empty() => {
                self.layers().origin(&KeyPath::parse("client.default").below(rest))
            }
            _ => None,
        };
        self.layers().origin(&path).or_else(in_default).unwrap_or(Origin::Default)
    }

    /// An error about the value of a key, placed where it was set. What follows a line break in the message is the hint.
    pub fn error(&self, key: &str, message: impl Into<String>) -> ConfigError {
        let path = KeyPath::parse(key);
        self.layers().mistake(&path, End::Value, format!("invalid `{path}`: {}", message.into())).into()
    }

    fn layers(&self) -> &Arc<Layers> {
        &self.0.sources.layers
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Config {
    /// Without the values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("environment", &self.environment())
            .field("files", &self.files_used())
            .finish_non_exhaustive()
    }
}

/// Reads and judges one section; its default if it cannot be read.
fn section<T>(layers: &Layers, name: &str, mistakes: &mut Vec<Mistake>) -> T
where
    T: DeserializeOwned + Default + Reviewed,
{
    let path = KeyPath::parse(name);
    let value = layers.value(&path).cloned().unwrap_or_else(|| Value::from(Dict::new()));
    let read = extract(layers, &path, value).inspect(|section: &T| {
        mistakes.extend(Review::of(layers, &path, section));
    });
    read.unwrap_or_else(|found| {
        mistakes.extend(found);
        T::default()
    })
}

/// Reads `[client.default]` and every `[client.<service>]` over it.
fn clients(layers: &Layers, mistakes: &mut Vec<Mistake>) -> (ClientConfig, BTreeMap<String, ClientConfig>) {
    let root = KeyPath::parse("client");
    if let Some(other) = layers.value(&root).filter(|value| value.as_dict().is_none()) {
        mistakes.extend(
            extract::<BTreeMap<String, Dict>>(layers, &root, other.clone()).err().into_iter().flatten(),
        );
    }
    let defaults = layers.table(&root.join("default"));
    let default: ClientConfig = section(layers, "client.default", mistakes);
    let mut clients = BTreeMap::new();
    for (name, value) in layers.table(&root) {
        let path = root.join(name.as_str());
        let Value::Dict(_, own) = &value else {
            mistakes.push(stray_client_key(layers, &path));
            continue;
        };
        if name == "default" {
            continue;
        }
        // Judged alone first, so that a mistake of `[client.default]` is not told again for each service.
        match extract::<ClientConfig>(layers, &path, value.clone()) {
            Ok(alone) => {
                mistakes.extend(Review::of(layers, &path, &alone));
                let merged = Value::from(merge([&defaults, own]));
                if let Ok(client) = extract(layers, &path, merged) {
                    clients.insert(name, client);
                }
            }
            Err(found) => mistakes.extend(found),
        }
    }
    (default, clients)
}

/// `[client] timeout = ..`: a key that belongs below a service or `default`.
fn stray_client_key(layers: &Layers, path: &KeyPath) -> Mistake {
    let name = path.last().unwrap_or_default();
    let is_key = schema::keys().iter().any(|key| key.strip_prefix("client.*.") == Some(name));
    let mistake = unknown_key(layers, path, None, &[]);
    if !is_key {
        return mistake.with_hint(Some("write `[client.<service>]` or `[client.default]`".to_owned()));
    }
    let meant = KeyPath::parse("client.default").join(name);
    let meant = if layers.is_variable(path) { meant.variable() } else { meant.to_string() };
    mistake.with_hint(Some(format!("did you mean `{meant}`?")))
}

/// Keys outside of every section.
fn stray_keys(layers: &Layers) -> Vec<Mistake> {
    let root = layers.table(&KeyPath::default());
    let stray =
        root.iter().filter(|(name, value)| value.as_dict().is_none() && !SECTIONS.contains(&name.as_str()));
    stray
        .map(|(name, _)| {
            let path = KeyPath::default().join(name.as_str());
            let meant = meant_by_stray(name);
            let hint = match &meant {
                Some(meant) if layers.is_variable(&path) => format!("did you mean `{}`?", meant.variable()),
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "every key belongs to a section".to_owned(),
            };
            let message = format!("the key `{path}` is in no section");
            layers.mistake(&path, End::Key, message).with_hint(Some(hint))
        })
        .collect()
}

/// The key that `name`, written without or glued to its section, stands for.
fn meant_by_stray(name: &str) -> Option<KeyPath> {
    let keys = schema::keys();
    let plain = || keys.iter().filter(|key| !key.contains('*'));
    plain()
        .find(|key| key.replace('.', "_") == name)
        .or_else(|| plain().find(|key| key.split_once('.').is_some_and(|(_, rest)| rest == name)))
        .map(|key| KeyPath::parse(key))
        .or_else(|| nearest(name, SECTIONS).map(KeyPath::parse))
}
