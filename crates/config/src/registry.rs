//! `[registry]`: which registry is used, and the named tables that backends read their own configuration from.
//!
//! The tables stay raw here, as their keys belong to the backends; what is judged is the graph they form: names that lead nowhere and circles.

use crate::{
    duration,
    error::{ConfigError, Mistake},
    extract::{extract, missing},
    key::KeyPath,
    layers::{End, Layers},
    nearest::{listed, nearest},
    schema::{REGISTRY_KEYS, Review, Reviewed},
    table::RegistryTable,
};
use figment::value::{Dict, Value};
use serde::Deserialize;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// Kinds that need no table to be named.
const BARE_KINDS: [&str; 3] = ["local", "static", "memory"];

/// The word for no registry at all.
const NONE: &str = "none";

/// `[registry]`.
#[derive(Clone)]
#[non_exhaustive]
pub struct RegistryConfig {
    /// Longest time to the first registration at start. Default: 10s.
    pub start_timeout: Duration,
    /// False if the application may start while no registry answers. Default: true.
    pub required: bool,
    word: Option<String>,
    environment: String,
    tables: BTreeMap<String, RegistryTable>,
    layers: Arc<Layers>,
}

/// The keys of `[registry]` that are no tables.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Head {
    r#use: Option<String>,
    #[serde(with = "duration")]
    start_timeout: Duration,
    required: bool,
}

impl Default for Head {
    fn default() -> Self {
        Self { r#use: None, start_timeout: Duration::from_secs(10), required: true }
    }
}

impl Reviewed for Head {
    fn review(&self, review: &mut Review<'_>) {
        review.positive("start_timeout", Some(self.start_timeout));
    }
}

// === impl RegistryConfig ===

impl RegistryConfig {
    /// Reads the section and judges the graph of its tables.
    pub(crate) fn read(layers: &Arc<Layers>, environment: &str) -> Result<Self, Vec<Mistake>> {
        let root = KeyPath::parse("registry");
        let mut mistakes = Vec::new();
        let (mut head, mut tables) = (Dict::new(), BTreeMap::new());
        for (name, value) in layers.table(&root) {
            match value {
                Value::Dict(_, values) if !REGISTRY_KEYS.contains(&name.as_str()) => {
                    match RegistryTable::read(layers, &root, &name, values) {
                        Ok(table) => drop(tables.insert(name, table)),
                        Err(mistake) => mistakes.push(mistake),
                    }
                }
                value => drop(head.insert(name, value)),
            }
        }
        let head = match layers.value(&root) {
            Some(other) if other.as_dict().is_none() => other.clone(),
            _ => Value::from(head),
        };
        let head = extract::<Head>(layers, &root, head).unwrap_or_else(|found| {
            mistakes.extend(found);
            Head::default()
        });
        mistakes.extend(Review::of(layers, &root, &head));
        let Head { r#use: word, start_timeout, required } = head;
        let environment = environment.to_owned();
        let registry =
            Self { start_timeout, required, word, environment, tables, layers: Arc::clone(layers) };
        if mistakes.is_empty() {
            mistakes.extend(registry.check_use());
            mistakes.extend(registry.check_members());
        }
        if mistakes.is_empty() { Ok(registry) } else { Err(mistakes) }
    }

    /// The registry that `use` names; `None` for `use = "none"`. In `dev` and `test` the default is `local`.
    ///
    /// # Errors
    /// `use` is not set and the environment is neither `dev` nor `test`.
    pub fn used(&self) -> Result<Option<RegistryTable>, ConfigError> {
        match self.word.as_deref() {
            Some(NONE) => Ok(None),
            Some(word) => Ok(self.table(word)),
            None => {
                let path = KeyPath::parse("registry.use");
                let environment = &self.environment;
                let mut mistake = missing(&self.layers, &path);
                mistake.0.message =
                    format!("missing key `use` in `[registry]`: in `{environment}` there is no default");
                mistake.0.excerpt = None;
                mistake.0.hint = Some(format!(
                    "write `[registry] use = \"..\"` in {environment}.toml or set {} ({})",
                    path.variable(),
                    self.choices(),
                ));
                Err(mistake.into())
            }
        }
    }

    /// The table of this name, or an empty one if the name is a kind that needs none (`local`, `static`, `memory`).
    pub fn table(&self, name: &str) -> Option<RegistryTable> {
        let implied = || RegistryTable::implied(&self.layers, &KeyPath::parse("registry"), name);
        self.tables.get(name).cloned().or_else(|| BARE_KINDS.contains(&name).then(implied))
    }

    /// Every table that is written, used or not, by name.
    pub fn tables(&self) -> impl Iterator<Item = &RegistryTable> {
        self.tables.values()
    }

    fn is_known(&self, name: &str) -> bool {
        self.tables.contains_key(name) || BARE_KINDS.contains(&name)
    }

    /// The names that may be written, for hints.
    fn choices(&self) -> String {
        let bare = listed(BARE_KINDS.into_iter().chain([NONE]));
        match listed(self.tables.keys().map(String::as_str)) {
            tables if tables.is_empty() => format!("there is no table; without one: {bare}"),
            tables => format!("tables: {tables}; without a table: {bare}"),
        }
    }

    fn check_use(&self) -> Option<Mistake> {
        let word = self.word.as_deref().filter(|word| *word != NONE && !self.is_known(word))?;
        Some(self.leads_nowhere(&KeyPath::parse("registry.use"), word))
    }

    fn leads_nowhere(&self, path: &KeyPath, word: &str) -> Mistake {
        let names = self.tables.keys().map(String::as_str).chain(BARE_KINDS).chain([NONE]);
        let meant = nearest(word, names).map(|near| format!("did you mean `{near}`? "));
        let message = format!("`{path}` names `{word}`, but there is no table `[registry.{word}]`");
        let hint = format!("{}{}", meant.unwrap_or_default(), self.choices());
        self.layers.mistake(path, End::Value, message).with_hint(Some(hint))
    }

    /// Members that lead nowhere, and circles.
    fn check_members(&self) -> Vec<Mistake> {
        let mut mistakes = Vec::new();
        for table in self.tables.values() {
            for (path, member) in table.members() {
                if !self.is_known(&member) {
                    mistakes.push(self.leads_nowhere(&path, &member));
                }
            }
        }
        let mut done = Vec::new();
        for name in self.tables.keys() {
            self.walk(name, &mut Vec::new(), &mut done, &mut mistakes);
        }
        if mistakes.is_empty() {
            mistakes.extend(self.tables.values().filter_map(|table| self.check_sides(table)));
        }
        mistakes
    }

    /// A dual whose sides come to the same registry: an instance would be announced there twice. The graph has no
    /// circles when this is asked.
    fn check_sides(&self, table: &RegistryTable) -> Option<Mistake> {
        let [(_, primary), (path, secondary)] = table.sides()?;
        let (first, second) = (self.surely(&primary), self.surely(&secondary));
        let same = |a: &RegistryTable, b: &RegistryTable| a.name() == b.name() || a.is_same_registry(b);
        let (one, other) = first.iter().find_map(|a| Some((a, second.iter().find(|b| same(a, b))?)))?;
        let message = match (one.name() == other.name(), other.name() == secondary) {
            (true, true) if primary == secondary => format!("`{path}` names the same registry as `primary`"),
            (true, _) => {
                format!("both sides of `[registry.{}]` lead to `[registry.{}]`", table.name(), one.name())
            }
            (false, _) => format!(
                "`[registry.{}]` and `[registry.{}]` are the same registry twice",
                one.name(),
                other.name(),
            ),
        };
        let hint = "a dual announces every instance at both of its sides: name two registries".to_owned();
        Some(self.layers.mistake(&path, End::Value, message).with_hint(Some(hint)))
    }

    /// The registries that every service of `name` is announced at: what a split routes by name is not sure.
    fn surely(&self, name: &str) -> Vec<RegistryTable> {
        let Some(table) = self.table(name) else { return Vec::new() };
        let mut members = table.members();
        members.dedup_by(|a, b| a.1 == b.1);
        match (table.kind(), members.len()) {
            ("dual", _) | ("split", 1) => {
                members.iter().flat_map(|(_, member)| self.surely(member)).collect()
            }
            ("split", _) => Vec::new(),
            _ => vec![table],
        }
    }

    /// Follows the members of a table; `way` are the tables above it.
    fn walk<'a>(
        &'a self,
        name: &'a str,
        way: &mut Vec<&'a str>,
        done: &mut Vec<&'a str>,
        mistakes: &mut Vec<Mistake>,
    ) {
        let Some((name, table)) = self.tables.get_key_value(name) else { return };
        if done.contains(&name.as_str()) {
            return;
        }
        way.push(name);
        for (path, member) in table.members() {
            let Some((member, _)) = self.tables.get_key_value(&member) else { continue };
            match way.iter().position(|above| above == member) {
                Some(from) => {
                    let circle: Vec<_> = way[from..].iter().copied().chain([member.as_str()]).collect();
                    let message = match &circle[..] {
                        [_, _] => format!("`{path}` names its own table `[registry.{member}]`"),
                        _ => format!("`{path}` closes a circle: {}", circle.join(" -> ")),
                    };
                    mistakes.push(self.layers.mistake(&path, End::Value, message));
                }
                None => self.walk(member, way, done, mistakes),
            }
        }
        way.pop();
        done.push(name);
    }
}

impl fmt::Debug for RegistryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryConfig")
            .field("use", &self.word)
            .field("start_timeout", &self.start_timeout)
            .field("required", &self.required)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}
