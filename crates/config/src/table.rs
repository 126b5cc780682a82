//! One named table of `[registry]`: raw until the backend it is for reads it.

use crate::{
    error::{ConfigError, Mistake},
    extract::{extract, unknown_key},
    key::KeyPath,
    layers::{End, Layers},
    nearest::{listed, nearest},
    schema::REGISTRY_KEYS,
};
use figment::value::{Dict, Value};
use serde::de::DeserializeOwned;
use std::{fmt, sync::Arc};

/// `[registry.<name>]`: the configuration of one registry, to be read by the backend it is for.
#[derive(Clone)]
pub struct RegistryTable {
    name: String,
    kind: String,
    values: Dict,
    path: KeyPath,
    layers: Arc<Layers>,
}

// === impl RegistryTable ===

impl RegistryTable {
    /// The empty table of a kind that needs none.
    pub(crate) fn implied(layers: &Arc<Layers>, root: &KeyPath, kind: &str) -> Self {
        Self {
            name: kind.to_owned(),
            kind: kind.to_owned(),
            values: Dict::new(),
            path: root.join(kind),
            layers: Arc::clone(layers),
        }
    }

    /// A table as it is written.
    pub(crate) fn read(
        layers: &Arc<Layers>,
        root: &KeyPath,
        name: &str,
        mut values: Dict,
    ) -> Result<Self, Mistake> {
        let path = root.join(name);
        if values.keys().any(|key| REGISTRY_KEYS.contains(&format!("{name}_{key}").as_str())) {
            return Err(unknown_key(layers, &path, Some(&Value::from(values)), &REGISTRY_KEYS));
        }
        let kind = match values.remove("kind") {
            None => name.to_owned(),
            Some(Value::String(_, kind)) => kind,
            Some(_) => {
                let key = path.join("kind");
                return Err(layers.mistake(&key, End::Value, format!("`{key}` must be text")));
            }
        };
        Ok(Self { name: name.to_owned(), kind, values, path, layers: Arc::clone(layers) })
    }

    /// The table's name, as `use` and other tables name it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kind of registry it is: its key `kind`, or its name.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// The whole path of one of its keys, as [`Config::changed_keys`](crate::Config::changed_keys) spells it.
    pub fn key(&self, key: &str) -> String {
        self.path.join(key).to_string()
    }

    /// Reads the table, without its `kind`, as the configuration of a backend; `T` should refuse unknown fields.
    ///
    /// # Errors
    /// Every key that does not fit, with its place.
    pub fn extract<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        extract(&self.layers, &self.path, Value::from(self.values.clone())).map_err(ConfigError::all)
    }

    /// An error about a key of this table, or about the table itself when `key` is empty. What follows a line break in the message is the hint.
    pub fn error(&self, key: &str, message: impl Into<String>) -> ConfigError {
        let below = KeyPath::parse(key);
        let end = if below.segments().is_empty() { End::Key } else { End::Value };
        let path = self.path.below(below.segments());
        self.layers.mistake(&path, end, format!("invalid `{path}`: {}", message.into())).into()
    }

    /// An error that says the kind is none of those `known`, which this build was made with.
    pub fn unknown_kind(&self, known: &[&str]) -> ConfigError {
        let (key, kind) = (self.path.join("kind"), &self.kind);
        let hint = match nearest(kind, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("kinds of this build: {}", listed(known.iter().copied())),
        };
        let message = format!("`{}` is of an unknown kind `{kind}`", self.path);
        self.layers.mistake(&key, End::Value, message).with_hint(Some(hint)).into()
    }

    /// Primary and secondary of a dual, if both are written.
    pub(crate) fn sides(&self) -> Option<[(KeyPath, String); 2]> {
        if self.kind == "dual" { self.members().try_into().ok() } else { None }
    }

    /// Whether another table says the same of the same kind, which makes it the same registry. Each `memory` is one
    /// of its own.
    pub(crate) fn is_same_registry(&self, other: &Self) -> bool {
        self.kind == other.kind && self.kind != "memory" && self.values == other.values
    }

    /// The names of other registries in this table, with their places: the members of a dual or a split.
    pub(crate) fn members(&self) -> Vec<(KeyPath, String)> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let at = |key: &str| Some((self.path.join(key), text(self.values.get(key)?)?));
        match self.kind.as_str() {
            "dual" => ["primary", "secondary"].into_iter().filter_map(at).collect(),
            "split" => {
                let routes = self.values.get("routes").and_then(Value::as_dict).into_iter().flatten();
                let path = self.path.join("routes");
                at("default")
                    .into_iter()
                    .chain(routes.filter_map(|(route, to)| Some((path.join(route), text(to)?))))
                    .collect()
            }
            _ => Vec::new(),
        }
    }
}

impl fmt::Debug for RegistryTable {
    /// Without the values, which may be secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryTable")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
