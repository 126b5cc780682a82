//! The environment variables as a layer, and those that look like ours and are not.

use crate::{
    document,
    error::{Mistake, Origin},
    key::{KeyPath, PREFIX, shell_name},
    layers::{Layer, Mark, Marks, Place, Source},
    schema,
};
use figment::value::{Dict, Value};
use std::{ffi::OsString, fmt};

/// The variable that names the environment.
pub(crate) const ENVIRONMENT: &str = "MESHWORK_ENV";

/// The variable that names the directory of the files.
pub(crate) const DIRECTORY: &str = "MESHWORK_CONFIG_DIR";

/// Segments that a variable's name may have.
const MAX_SEGMENTS: usize = 16;

/// A variable that begins with `MESHWORK_` and sets nothing; its `Display` is a sentence for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct IgnoredVariable {
    /// The variable's name.
    pub name: String,
    /// The variable that was probably meant; `None` for what Kubernetes injects for a Service named `meshwork`.
    pub meant: Option<String>,
}

/// What the environment comes to.
pub(crate) struct Environment {
    pub(crate) layer: Layer,
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) ignored: Vec<IgnoredVariable>,
}

/// Reads the variables; `lower` are the merged values of the files, whose keys that are no shell names they may meet.
pub(crate) fn read(variables: &[(OsString, OsString)], lower: &Dict) -> Environment {
    let mut environment = Environment {
        layer: Layer { source: Source::Env, values: Dict::new(), marks: Marks::new() },
        mistakes: Vec::new(),
        ignored: Vec::new(),
    };
    let mut named: Vec<_> =
        variables.iter().filter_map(|(name, value)| Some((name.to_str()?, value))).collect();
    named.sort_unstable_by_key(|(name, _)| *name);
    for (name, value) in named {
        if let Err(mistake) = environment.take(name, value.to_str(), lower) {
            environment.mistakes.push(mistake.with_origin(Origin::Env { variable: name.to_owned() }));
        }
    }
    environment
}

impl Environment {
    fn take(&mut self, name: &str, value: Option<&str>, lower: &Dict) -> Result<(), Mistake> {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            self.note_ignored(name, value.unwrap_or_default());
            return Ok(());
        };
        let value = value.ok_or_else(|| Mistake::new("", "the value is not UTF-8"))?;
        if value.is_empty() {
            return Ok(());
        }
        let segments: Vec<_> = rest.split("__").map(str::to_ascii_lowercase).collect();
        if segments.iter().any(String::is_empty) {
            return Err(Mistake::new("", format!("the name has an empty part\nwrite {PREFIX}SECTION__KEY")));
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(Mistake::new("", format!("the name has more than {MAX_SEGMENTS} parts")));
        }
        if segments.len() == 1 && is_service_link(rest, value) {
            self.ignored.push(IgnoredVariable { name: name.to_owned(), meant: None });
            return Ok(());
        }
        self.insert(name, &spelled_as_in(lower, segments), value)
    }

    fn insert(&mut self, name: &str, segments: &[String], text: &str) -> Result<(), Mistake> {
        let path = KeyPath::from(segments);
        let (last, above) = segments.split_last().expect("invariant: split yields at least one part");
        let mut table = &mut self.layer.values;
        for (i, segment) in above.iter().enumerate() {
            let at = KeyPath::from(&segments[..=i]);
            let place = Place::Variable { name: name.to_owned(), raw: None };
            self.layer.marks.entry(at.clone()).or_insert(Mark { place, is_table: true });
            let entry = table.entry(segment.clone()).or_insert_with(|| Value::from(Dict::new()));
            table = match entry {
                Value::Dict(_, table) => table,
                _ => {
                    return Err(Mistake::new(&path, format!("`{at}` is set to a value by another variable")));
                }
            };
        }
        if let Some(Mark { place: Place::Variable { name: other, .. }, .. }) = self.layer.marks.get(&path)
            && other != name
            && other.eq_ignore_ascii_case(name)
        {
            return Err(Mistake::new(&path, format!("`{path}` is set by {other} too")));
        }
        let value = typed(text);
        mark_all(&path, &value, name, &mut self.layer.marks);
        if !matches!(value, Value::String(..)) {
            let place = Place::Variable { name: name.to_owned(), raw: Some(text.to_owned()) };
            self.layer.marks.insert(path, Mark { place, is_table: matches!(value, Value::Dict(..)) });
        }
        table.insert(last.clone(), value);
        Ok(())
    }

    /// Remembers a variable with a single underscore behind `MESHWORK`.
    fn note_ignored(&mut self, name: &str, value: &str) {
        let Some(rest) = name.strip_prefix("MESHWORK_") else { return };
        if name == ENVIRONMENT || name == DIRECTORY {
            return;
        }
        let meant = (!is_service_link(rest, value)).then(|| meant(rest)).flatten();
        self.ignored.push(IgnoredVariable { name: name.to_owned(), meant });
    }
}

/// The path with the segments that a lower layer spells otherwise (`by-team`, `Team`) spelled as there.
fn spelled_as_in(lower: &Dict, mut segments: Vec<String>) -> Vec<String> {
    let mut table = Some(lower);
    for segment in &mut segments {
        let Some(keys) = table else { break };
        if !keys.contains_key(segment) {
            let mut alike = keys.keys().filter(|key| shell_name(key) == *segment);
            if let (Some(key), None) = (alike.next(), alike.next()) {
                segment.clone_from(key);
            }
        }
        table = keys.get(segment).and_then(Value::as_dict);
    }
    segments
}

/// Reads a value: a list or a table in TOML, a truth, a number, else the text as it stands.
fn typed(text: &str) -> Value {
    let first = text.chars().next().unwrap_or(' ');
    match text {
        "true" => Value::from(true),
        "false" => Value::from(false),
        _ if first == '[' || first == '{' => document::inline(text).unwrap_or_else(|| Value::from(text)),
        _ if first.is_ascii_digit() || first == '-' || first == '.' => {
            let number =
                text.parse::<i64>().map(Value::from).or_else(|_| text.parse::<u64>().map(Value::from));
            let finite = || text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::from);
            number.ok().or_else(finite).unwrap_or_else(|| Value::from(text))
        }
        _ => Value::from(text),
    }
}

fn mark_all(path: &KeyPath, value: &Value, name: &str, marks: &mut Marks) {
    let place = Place::Variable { name: name.to_owned(), raw: None };
    marks.insert(path.clone(), Mark { place, is_table: matches!(value, Value::Dict(..)) });
    match value {
        Value::Dict(_, table) => table.iter().for_each(|(k, v)| mark_all(&path.join(k), v, name, marks)),
        Value::Array(_, items) => {
            items.iter().enumerate().for_each(|(i, v)| mark_all(&path.join(i.to_string()), v, name, marks));
        }
        _ => {}
    }
}

/// True for what Kubernetes (and Docker links) inject: `…SERVICE_HOST`, `…SERVICE_PORT…`, `…PORT=tcp://…`, `…PORT_80_TCP…`.
fn is_service_link(rest: &str, value: &str) -> bool {
    let is_port = (rest == "PORT" || rest.ends_with("_PORT")) && value.contains("://");
    let numbered = || {
        let mut parts = rest.split('_').skip_while(|part| *part != "PORT").skip(1);
        parts.next().is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
            && parts.next().is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"))
    };
    rest.ends_with("SERVICE_HOST") || rest.contains("SERVICE_PORT") || is_port || numbered()
}

/// The variable that `MESHWORK_{rest}` was probably meant to be, if it begins with the name of a section.
fn meant(rest: &str) -> Option<String> {
    let rest = rest.trim_matches('_');
    schema::SECTIONS.iter().find_map(|section| {
        let key = rest.get(section.len()..)?.strip_prefix('_')?;
        rest[..section.len()]
            .eq_ignore_ascii_case(section)
            .then(|| KeyPath::parse(section).join(key).variable())
    })
}

impl fmt::Display for IgnoredVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.meant {
            Some(meant) => write!(f, "{} is ignored: two underscores nest, did you mean {meant}?", self.name),
            None => write!(f, "{} is ignored: it is no setting of ours", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kubernetes_injects_is_recognised() {
        for (rest, value) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT", "80"),
            ("SERVICE_PORT_HTTP", "80"),
            ("PORT", "tcp://10.0.0.1:80"),
            ("PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("PORT_80_TCP_ADDR", "10.0.0.1"),
            ("FOO_PORT_53_UDP_PROTO", "udp"),
        ] {
            assert!(is_service_link(rest, value), "{rest}");
        }
        for (rest, value) in [("REGISTRY_USE", "etcd"), ("PORT", "80"), ("PORT_80", "x")] {
            assert!(!is_service_link(rest, value), "{rest}");
        }
    }

    #[test]
    fn values_are_taken_as_they_stand() {
        for text in ["a$b", "a\nb: c", "\"", "\"quoted\"", " padded ", "[a", "{a", "inf", "nan", "-", "$HOME"]
        {
            assert_eq!(typed(text).as_str(), Some(text));
        }
    }

    #[test]
    fn a_single_underscore_for_two_is_noticed() {
        assert_eq!(meant("REGISTRY_USE").as_deref(), Some("MESHWORK__REGISTRY__USE"));
        assert_eq!(meant("BANANA_USE"), None);
    }
}
