//! A TOML text as a layer: its values for the merge and the bytes of every key for the errors.

use crate::{
    error::{Mistake, Origin},
    excerpt::Excerpt,
    key::KeyPath,
    layers::{Layer, Mark, Marks, Place, Source},
};
use figment::value::{Dict, Value};
use std::{ops::Range, path::PathBuf};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Tables within tables that are read; more is an error, as nothing here nests so deep.
const MAX_DEPTH: usize = 32;

/// Reads a file's text.
///
/// # Errors
/// The text is no TOML.
pub(crate) fn file(path: PathBuf, text: String) -> Result<Layer, Mistake> {
    match read(&text) {
        Ok((values, marks)) => Ok(Layer { source: Source::File { path, text }, values, marks }),
        Err(fault) => Err(fault.placed(&text, |line, column| Origin::File { path, line, column })),
    }
}

/// Reads a text given in code.
///
/// # Errors
/// The text is no TOML.
pub(crate) fn code(text: String) -> Result<Layer, Mistake> {
    match read(&text) {
        Ok((values, marks)) => Ok(Layer { source: Source::Code { text }, values, marks }),
        Err(fault) => Err(fault.placed(&text, |line, column| Origin::Code { line, column })),
    }
}

/// Reads a list or a table, as environment variables write them; `None` when the text is neither.
pub(crate) fn inline(text: &str) -> Option<Value> {
    let parsed = DeValue::parse(text).ok()?;
    let compound = matches!(parsed.get_ref(), DeValue::Array(_) | DeValue::Table(_));
    let mut marks = Marks::new();
    if compound { value(&KeyPath::default(), &parsed, 0, &mut marks).ok() } else { None }
}

/// A syntax error and its bytes.
struct Fault {
    span: Range<usize>,
    message: String,
}

impl Fault {
    fn placed(self, text: &str, origin: impl FnOnce(usize, usize) -> Origin) -> Mistake {
        let excerpt = Excerpt::new(text, &self.span, true);
        let mut mistake = Mistake::new("", format!("invalid TOML: {}", self.message));
        mistake.0.origin = Some(origin(excerpt.line, excerpt.column));
        mistake.0.excerpt = Some(excerpt);
        mistake
    }
}

fn read(text: &str) -> Result<(Dict, Marks), Fault> {
    let parsed = DeTable::parse(text)
        .map_err(|e| Fault { span: e.span().unwrap_or(0..0), message: e.message().to_owned() })?;
    let mut marks = Marks::new();
    let values = table(&KeyPath::default(), parsed.get_ref(), 0, &mut marks)?;
    Ok((values, marks))
}

fn table(path: &KeyPath, table: &DeTable<'_>, depth: usize, marks: &mut Marks) -> Result<Dict, Fault> {
    let mut values = Dict::new();
    for (key, item) in table {
        let at = path.join(key.get_ref().as_ref());
        let place = Place::Text { key: key.span(), value: item.span() };
        marks.insert(at.clone(), Mark { place, is_table: item.get_ref().is_table() });
        values.insert(key.get_ref().to_string(), value(&at, item, depth + 1, marks)?);
    }
    Ok(values)
}

fn value(at: &KeyPath, item: &Spanned<DeValue<'_>>, depth: usize, marks: &mut Marks) -> Result<Value, Fault> {
    let fault = |message: String| Fault { span: item.span(), message };
    if depth > MAX_DEPTH {
        return Err(fault(format!("nested more than {MAX_DEPTH} deep")));
    }
    Ok(match item.get_ref() {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(truth) => Value::from(*truth),
        DeValue::Datetime(time) => Value::from(time.to_string()),
        DeValue::Integer(number) => {
            let (digits, radix) = (number.as_str(), number.radix());
            i64::from_str_radix(digits, radix)
                .map(Value::from)
                .or_else(|_| u64::from_str_radix(digits, radix).map(Value::from))
                .map_err(|_| fault("the number is out of range".to_owned()))?
        }
        DeValue::Float(number) => {
            let number: f64 =
                number.as_str().parse().map_err(|_| fault("the number is out of range".to_owned()))?;
            Value::from(number)
        }
        DeValue::Array(items) => {
            let mut values = Vec::with_capacity(items.len());
            for (i, item) in items.iter().enumerate() {
                let at = at.join(i.to_string());
                let place = Place::Text { key: item.span(), value: item.span() };
                marks.insert(at.clone(), Mark { place, is_table: item.get_ref().is_table() });
                values.push(value(&at, item, depth + 1, marks)?);
            }
            Value::from(values)
        }
        DeValue::Table(items) => Value::from(table(at, items, depth, marks)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_syntax_error_has_its_place() {
        let mistake = code("[service]\nname = = 1".to_owned()).err().expect("must be refused");
        assert!(matches!(mistake.origin(), Some(Origin::Code { line: 2, .. })), "{mistake}");
    }

    #[test]
    fn a_text_nested_too_deep_is_an_error_and_no_overflow() {
        for text in [
            format!("a = {}1{}", "[".repeat(100_000), "]".repeat(100_000)),
            format!("a{} = 1", ".a".repeat(100_000)),
            format!("a = {}1{}", "{a=".repeat(50_000), "}".repeat(50_000)),
        ] {
            assert!(code(text).is_err());
        }
    }

    #[test]
    fn only_lists_and_tables_are_inline() {
        assert!(inline("[\"a\", \"b\"]").is_some());
        assert!(inline("{ a = 1 }").is_some());
        for text in ["1", "\"a\"", "[a", "[1] x", "[1]\nb = 2", ""] {
            assert!(inline(text).is_none(), "{text}");
        }
    }
}
