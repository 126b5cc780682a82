//! The line of a TOML text that an error points at, with a caret under the place.

use std::{fmt, ops::Range};

/// Longest stretch of a line that is shown, in characters.
const WIDTH: usize = 100;

/// One line of a text and the place in it; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Excerpt {
    pub(crate) line: usize,
    pub(crate) column: usize,
    shown: String,
    indent: usize,
    carets: usize,
}

impl Excerpt {
    /// Shows the line where `span` begins. With `hide_value` nothing behind the `=` that follows the span is shown, as it may be a secret.
    pub(crate) fn new(text: &str, span: &Range<usize>, hide_value: bool) -> Self {
        let start = floor(text, span.start);
        let end = floor(text, span.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |i| i + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |i| start + i);
        let (before, rest) = (&text[line_start..start], text[start..line_end].trim_end());
        let column = before.chars().count() + 1;
        let mut carets = text[start..end.min(line_end)].trim_end().chars().count().max(1);
        let mut line: Vec<char> = before.chars().chain(rest.chars()).collect();
        if hide_value {
            let from = (column - 1 + carets).min(line.len());
            if let Some(equals) = line[from..].iter().position(|c| *c == '=') {
                line.truncate(from + equals + 1);
                line.extend(" …".chars());
            }
        }
        let skipped = if column > WIDTH / 2 && line.len() > WIDTH { column - WIDTH / 2 } else { 0 };
        carets = carets.min(WIDTH);
        let mut shown: String =
            line.iter().skip(skipped).take(WIDTH).map(|c| if c.is_control() { ' ' } else { *c }).collect();
        if line.len() > skipped + WIDTH {
            shown.push('…');
        }
        let indent = column - 1 - skipped;
        carets = carets.min(shown.chars().count().saturating_sub(indent).max(1));
        Self { line: text[..start].matches('\n').count() + 1, column, shown, indent, carets }
    }

    /// Writes the gutter, the line and the carets, with `hint` behind them.
    pub(crate) fn write(&self, f: &mut fmt::Formatter<'_>, hint: Option<&str>) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        write!(f, "\n {gutter} |\n {number} | {}\n {gutter} | ", self.shown)?;
        write!(f, "{}{}", " ".repeat(self.indent), "^".repeat(self.carets))?;
        match hint {
            Some(hint) => write!(f, " {hint}"),
            None => Ok(()),
        }
    }
}

/// The last character boundary at or before `offset`.
fn floor(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Shown<'a>(&'a Excerpt);

    impl fmt::Display for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.write(f, Some("here"))
        }
    }

    #[test]
    fn carets_stand_under_the_span() {
        let text = "[service]\nnmae = \"x\"\r\n";
        let excerpt = Excerpt::new(text, &(10..14), false);
        assert_eq!((excerpt.line, excerpt.column), (2, 1));
        assert_eq!(Shown(&excerpt).to_string(), "\n   |\n 2 | nmae = \"x\"\n   | ^^^^ here");
    }

    #[test]
    fn a_value_that_may_be_secret_is_hidden() {
        let excerpt = Excerpt::new("pasword = \"hunter2\"", &(0..7), true);
        assert!(!Shown(&excerpt).to_string().contains("hunter2"));
    }

    #[test]
    fn a_long_line_is_cut_around_the_place() {
        let text = format!("{} = 1", "x".repeat(500));
        let excerpt = Excerpt::new(&text, &(300..305), false);
        assert!(Shown(&excerpt).to_string().lines().all(|l| l.chars().count() < 130));
    }

    #[test]
    fn a_span_outside_the_text_is_no_panic() {
        let excerpt = Excerpt::new("ä", &(1..99), false);
        assert_eq!((excerpt.line, excerpt.column), (1, 1));
    }
}
