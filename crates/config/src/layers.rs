//! The layers of a configuration, their merged value, and where each key of it was set.

use crate::{
    error::{Mistake, Origin},
    excerpt::Excerpt,
    key::KeyPath,
};
use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Value},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    path::{Path, PathBuf},
};

/// What a layer was read from.
pub(crate) enum Source {
    /// The built-in defaults that depend on the environment.
    Defaults,
    /// A file and its text.
    File { path: PathBuf, text: String },
    /// The environment variables.
    Env,
    /// TOML given in code.
    Code { text: String },
}

/// One layer: its values and the place of each.
pub(crate) struct Layer {
    pub(crate) source: Source,
    pub(crate) values: Dict,
    pub(crate) marks: Marks,
}

/// The place of every key of a layer, tables included; items of lists by their number.
pub(crate) type Marks = BTreeMap<KeyPath, Mark>;

/// The place of one key.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) place: Place,
    pub(crate) is_table: bool,
}

#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// Bytes of the layer's text.
    Text { key: Range<usize>, value: Range<usize> },
    /// A variable, and its text as it stands if the value was read as something else.
    Variable { name: String, raw: Option<String> },
    /// Built in.
    Nowhere,
}

/// Which end of `key = value` an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Key,
    Value,
}

/// All layers, lowest first, and what they come to. Not `Debug`, as the values may be secrets.
pub(crate) struct Layers {
    list: Vec<Layer>,
    merged: Value,
}

/// Lets figment merge a table that is already in memory.
struct InMemory<'a>(&'a Dict);

impl Provider for InMemory<'_> {
    fn metadata(&self) -> Metadata {
        Metadata::named("layer")
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Map::from([(Profile::Default, self.0.clone())]))
    }
}

/// Merges tables, the later over the earlier: tables key by key, everything else as a whole.
pub(crate) fn merge<'a>(tables: impl IntoIterator<Item = &'a Dict>) -> Dict {
    tables
        .into_iter()
        .fold(Figment::new(), |figment, table| figment.merge(InMemory(table)))
        .data()
        .expect("invariant: tables in memory are read without error")
        .remove(&Profile::Default)
        .unwrap_or_default()
}

/// Adds the paths at or below `path` where the values differ.
fn compare(path: KeyPath, old: Option<&Value>, new: Option<&Value>, changed: &mut Vec<KeyPath>) {
    if old == new {
        return;
    }
    let table = |value: Option<&Value>| match value {
        None => Some(Dict::new()),
        Some(value) => value.as_dict().cloned(),
    };
    let before = changed.len();
    if let (Some(old), Some(new)) = (table(old), table(new)) {
        let names: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        for name in names {
            compare(path.join(name.as_str()), old.get(name), new.get(name), changed);
        }
    }
    // Something else than a table on one side, or an empty table that came or went.
    if changed.len() == before {
        changed.push(path);
    }
}

// === impl Layers ===

impl Layers {
    pub(crate) fn new(list: Vec<Layer>) -> Self {
        let merged = Value::from(merge(list.iter().map(|layer| &layer.values)));
        Self { list, merged }
    }

    /// The merged value at a path.
    pub(crate) fn value(&self, path: &KeyPath) -> Option<&Value> {
        path.segments().iter().try_fold(&self.merged, |value, segment| value.as_dict()?.get(segment))
    }

    /// The merged table at a path, empty when there is none or something else.
    pub(crate) fn table(&self, path: &KeyPath) -> Dict {
        self.value(path).and_then(Value::as_dict).cloned().unwrap_or_default()
    }

    /// The text of a file that was read.
    pub(crate) fn text(&self, file: &Path) -> Option<&str> {
        self.list.iter().find_map(|layer| match &layer.source {
            Source::File { path, text } if path == file => Some(text.as_str()),
            _ => None,
        })
    }

    /// The paths whose merged values differ in `newer`: tables taken apart, everything else as a whole.
    pub(crate) fn changed(&self, newer: &Self) -> Vec<KeyPath> {
        let mut changed = Vec::new();
        compare(KeyPath::default(), Some(&self.merged), Some(&newer.merged), &mut changed);
        changed
    }

    /// Where a key of the merged value comes from: the topmost layer that sets it, or sets something that is no table above it.
    fn find(&self, path: &KeyPath) -> Option<(&Layer, &Mark)> {
        self.list.iter().rev().find_map(|layer| layer.lookup(path).map(|mark| (layer, mark)))
    }

    /// The text of the variable that sets exactly this key to something other than text.
    pub(crate) fn raw(&self, path: &KeyPath) -> Option<&str> {
        match &self.find(path)?.1.place {
            Place::Variable { raw, .. } => raw.as_deref(),
            _ => None,
        }
    }

    /// Where a key was set; `None` when no layer does.
    pub(crate) fn origin(&self, path: &KeyPath) -> Option<Origin> {
        let (layer, mark) = self.find(path)?;
        Some(layer.origin(mark, End::Key, false))
    }

    /// True if an environment variable sets the key.
    pub(crate) fn is_variable(&self, path: &KeyPath) -> bool {
        self.find(path).is_some_and(|(_, mark)| matches!(mark.place, Place::Variable { .. }))
    }

    /// A mistake about a key, placed where the key was set, or at the nearest table above it.
    pub(crate) fn mistake(&self, path: &KeyPath, end: End, message: impl Into<String>) -> Mistake {
        let mut mistake = Mistake::new(path, message);
        let (mut at, mut end) = (path.clone(), end);
        while !at.segments().is_empty() {
            if let Some((layer, mark)) = self.find(&at) {
                mistake.0.origin = Some(layer.origin(mark, end, path.is_secret()));
                mistake.0.excerpt = layer.excerpt(mark, end, path.is_secret());
                break;
            }
            (at, end) = (at.parent(), End::Key);
        }
        mistake
    }
}

// === impl Layer ===

impl Layer {
    /// The mark of a path, or of the value above it that takes its place.
    fn lookup(&self, path: &KeyPath) -> Option<&Mark> {
        self.marks.get(path).or_else(|| {
            let mut above = path.parent();
            while !above.segments().is_empty() {
                if let Some(mark) = self.marks.get(&above) {
                    return (!mark.is_table).then_some(mark);
                }
                above = above.parent();
            }
            None
        })
    }

    fn text(&self) -> &str {
        match &self.source {
            Source::File { text, .. } | Source::Code { text } => text,
            Source::Defaults | Source::Env => "",
        }
    }

    fn origin(&self, mark: &Mark, end: End, is_secret: bool) -> Origin {
        match (&mark.place, &self.source) {
            (Place::Variable { name, .. }, _) => Origin::Env { variable: name.clone() },
            (Place::Text { .. }, source) => {
                let (line, column) =
                    self.excerpt(mark, end, is_secret).map_or((1, 1), |e| (e.line, e.column));
                match source {
                    Source::File { path, .. } => Origin::File { path: path.clone(), line, column },
                    _ => Origin::Code { line, column },
                }
            }
            (Place::Nowhere, _) => Origin::Default,
        }
    }

    /// The line of a mark. What follows a key is hidden, as nothing is known about an unknown key's value; a secret's value is not shown either.
    fn excerpt(&self, mark: &Mark, end: End, is_secret: bool) -> Option<Excerpt> {
        let Place::Text { key, value } = &mark.place else { return None };
        Some(match end {
            End::Value if !is_secret => Excerpt::new(self.text(), value, false),
            _ => Excerpt::new(self.text(), key, true),
        })
    }
}
