//! The lines that a process has printed: the last ones, and how far a reader has come.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
};

const KEPT: usize = 10_000;
/// A longer line is cut in pieces.
const LONGEST: u64 = 64 * 1024;

pub(super) struct Captured {
    lines: VecDeque<String>,
    /// How many of the kept lines [`next`](Self::next) has passed.
    passed: usize,
    is_open: bool,
}

impl Captured {
    pub(super) fn new() -> Self {
        Self { lines: VecDeque::new(), passed: 0, is_open: true }
    }

    pub(super) fn push(&mut self, line: String) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
            self.passed = self.passed.saturating_sub(1);
        }
        self.lines.push_back(line);
    }

    pub(super) fn close(&mut self) {
        self.is_open = false;
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// The first line after the one found last for which `is_it` holds. Without one nothing is passed.
    pub(super) fn next(&mut self, mut is_it: impl FnMut(&str) -> bool) -> Option<String> {
        let found = self.lines.iter().skip(self.passed).position(|line| is_it(line))?;
        self.passed += found + 1;
        self.lines.get(self.passed - 1).cloned()
    }

    pub(super) fn tail(&self, count: usize) -> Vec<String> {
        self.lines.iter().skip(self.lines.len().saturating_sub(count)).cloned().collect()
    }
}

/// Reads to the end, line by line; bytes that are no UTF-8 are replaced.
pub(super) fn read_lines(from: impl Read, mut on_line: impl FnMut(String)) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.by_ref().take(LONGEST).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        on_line(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned());
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_walks_forward_and_passes_nothing_in_vain() {
        let mut captured = Captured::new();
        read_lines(&b"a\nb\r\na"[..], |line| captured.push(line));
        assert_eq!(captured.next(|line| line == "a").as_deref(), Some("a"));
        assert_eq!(captured.next(|line| line == "c"), None);
        assert_eq!(captured.next(|line| line == "b").as_deref(), Some("b"));
        assert_eq!(captured.next(|line| line == "a").as_deref(), Some("a"));
        assert_eq!(captured.next(|line| line == "a"), None);
        assert_eq!(captured.tail(2), ["b", "a"]);
    }

    #[test]
    fn keeps_a_bounded_number_of_lines() {
        let mut captured = Captured::new();
        for n in 0..KEPT + 5 {
            captured.push(n.to_string());
        }
        assert_eq!(captured.tail(usize::MAX).len(), KEPT);
        assert_eq!(captured.next(|_| true).as_deref(), Some("5"));
    }
}
