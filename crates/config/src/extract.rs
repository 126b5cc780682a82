//! Turns merged values into a typed section and serde's complaints into placed mistakes, all of them at once.

use crate::{
    error::Mistake,
    key::KeyPath,
    layers::{End, Layers},
    nearest::{listed, nearest},
    renamed,
};
use figment::{
    error::{Actual, Kind},
    value::Value,
};
use serde::de::DeserializeOwned;

/// Mistakes that one section reports at most.
const MAX_MISTAKES: usize = 32;

/// What was tried for a section so far.
struct Attempt<'a> {
    layers: &'a Layers,
    root: &'a KeyPath,
    value: Value,
    mistakes: Vec<Mistake>,
    /// Keys whose number, truth, list or table was replaced by the variable's text, and what was wrong before.
    as_text: Vec<(KeyPath, Mistake)>,
}

/// Reads `T` from `value`, which stands at `root`. serde stops at the first mistake: it is noted and taken out, then the rest is tried.
///
/// # Errors
/// Everything that does not fit, in the order found.
pub(crate) fn extract<T: DeserializeOwned>(
    layers: &Layers,
    root: &KeyPath,
    value: Value,
) -> Result<T, Vec<Mistake>> {
    let mut attempt = Attempt { layers, root, value, mistakes: Vec::new(), as_text: Vec::new() };
    // Each variable may need one round more, to be read as text.
    for _ in 0..MAX_MISTAKES * 8 {
        match T::deserialize(&attempt.value) {
            Ok(typed) if attempt.mistakes.is_empty() => return Ok(typed),
            Ok(_) => break,
            Err(error) => {
                if !attempt.learn(&error) || attempt.mistakes.len() >= MAX_MISTAKES {
                    break;
                }
            }
        }
    }
    Err(attempt.mistakes)
}

impl Attempt<'_> {
    /// Notes a complaint and mends the value; false if it cannot be mended.
    fn learn(&mut self, error: &figment::Error) -> bool {
        let path = self.root.below(&error.path);
        if let Kind::MissingField(name) = &error.kind {
            let path = path.join(name.as_ref());
            // A key that was taken out for a mistake is not missing as well.
            if !self.mistakes.iter().any(|m| m.key() == path.to_string()) {
                self.mistakes.push(missing(self.layers, &path));
            }
            return false;
        }
        let mut mistake = describe(self.layers, &path, &error.kind, &self.value, &error.path);
        match self.as_text.iter().position(|(at, _)| *at == path) {
            Some(i) if matches!(error.kind, Kind::InvalidType(..)) => mistake = self.as_text.swap_remove(i).1,
            Some(_) => {}
            None => {
                if let (Kind::InvalidType(..), Some(raw)) = (&error.kind, self.layers.raw(&path)) {
                    let text = Value::from(raw);
                    self.as_text.push((path, mistake));
                    return replace(&mut self.value, &error.path, Some(text));
                }
            }
        }
        self.mistakes.push(mistake);
        replace(&mut self.value, &error.path, None)
    }
}

/// A required key that no layer sets.
pub(crate) fn missing(layers: &Layers, path: &KeyPath) -> Mistake {
    layers
        .mistake(path, End::Key, format!("missing key `{path}`"))
        .with_hint(Some(format!("set it in a file of the configuration or by {}", path.variable())))
}

/// A key that is not known, with the nearest of `valid`, or all of them.
pub(crate) fn unknown_key(
    layers: &Layers,
    path: &KeyPath,
    value: Option<&Value>,
    valid: &[&'static str],
) -> Mistake {
    if let Some(new) = renamed::replacement(path) {
        let mistake = layers.mistake(path, End::Key, format!("`{path}` is called `{new}`"));
        let write =
            if layers.is_variable(path) { new.variable() } else { new.last().unwrap_or_default().to_owned() };
        return mistake.with_hint(Some(format!("write `{write}`")));
    }
    let word = path.last().unwrap_or_default();
    // `START__TIMEOUT` for `START_TIMEOUT`: a table whose key continues the name.
    let joined = value.and_then(Value::as_dict).and_then(|table| {
        table.keys().find_map(|key| valid.iter().copied().find(|v| *v == format!("{word}_{key}")))
    });
    let hint = match joined.or_else(|| nearest(word, valid.iter().copied())) {
        Some(near) if layers.is_variable(path) => {
            format!("did you mean `{}`?", path.parent().join(near).variable())
        }
        Some(near) => format!("did you mean `{near}`?"),
        None if valid.is_empty() => "no key is valid here".to_owned(),
        None => format!("valid keys: {}", listed(valid.iter().copied())),
    };
    layers.mistake(path, End::Key, format!("unknown key `{path}`")).with_hint(Some(hint))
}

fn describe(layers: &Layers, path: &KeyPath, kind: &Kind, root: &Value, below: &[String]) -> Mistake {
    let at_value = |message: String| layers.mistake(path, End::Value, message);
    match kind {
        Kind::UnknownField(_, valid) => {
            let value = below.iter().try_fold(root, |value, segment| value.as_dict()?.get(segment));
            unknown_key(layers, path, value, valid)
        }
        Kind::UnknownVariant(word, valid) => {
            let hint = match nearest(word, valid.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("valid values: {}", listed(valid.iter().copied())),
            };
            at_value(format!("`{path}` cannot be \"{word}\"")).with_hint(Some(hint))
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let (expected, actual) = (in_words(expected), seen(actual, path.is_secret()));
            at_value(format!("`{path}` must be {expected}, not {actual}"))
        }
        Kind::InvalidLength(length, expected) => {
            at_value(format!("`{path}` must be {}, not {length} items", in_words(expected)))
        }
        Kind::Message(message) => at_value(format!("invalid `{path}`: {message}")),
        other => at_value(format!("invalid `{path}`: {other}")),
    }
}

/// What serde expected, as a person would say it.
fn in_words(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "a nonzero u8" => "a whole number from 1 to 255",
        "a nonzero u16" => "a whole number from 1 to 65535",
        "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "a nonzero u32" | "a nonzero u64" | "a nonzero usize" => "a whole number, 1 or more",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "text",
        "a sequence" => "a list",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

/// The value that was found; of a secret only its type.
fn seen(actual: &Actual, is_secret: bool) -> String {
    match actual {
        Actual::Seq => "a list".to_owned(),
        Actual::Map => "a table".to_owned(),
        Actual::Str(_) if is_secret => "this text".to_owned(),
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) if is_secret => "a number".to_owned(),
        Actual::Str(text) => {
            let short: String = text.chars().take(60).collect();
            let dots = if short.len() < text.len() { "…" } else { "" };
            format!("the text {short:?}{dots}")
        }
        Actual::Bool(truth) => truth.to_string(),
        Actual::Unsigned(n) => n.to_string(),
        Actual::Signed(n) => n.to_string(),
        Actual::Float(n) => n.to_string(),
        other => other.to_string(),
    }
}

/// Replaces the value at `path`, or takes it out. An item of a list is taken out with its whole list, as its neighbours' numbers would shift. False if nothing is there.
fn replace(root: &mut Value, path: &[String], with: Option<Value>) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return match with {
            Some(value) => {
                *root = value;
                true
            }
            None => false,
        };
    };
    match root {
        Value::Dict(_, table) => match table.get_mut(first) {
            Some(Value::Array(_, items)) if !rest.is_empty() => match (with, rest[0].parse::<usize>()) {
                (Some(value), Ok(i)) if i < items.len() => replace(&mut items[i], &rest[1..], Some(value)),
                _ => table.remove(first).is_some(),
            },
            Some(value) if !rest.is_empty() => replace(value, rest, with),
            Some(value) => match with {
                Some(new) => {
                    *value = new;
                    true
                }
                None => table.remove(first).is_some(),
            },
            None => false,
        },
        _ => false,
    }
}
