//! The second look at a section: what its types cannot refuse.

use crate::{
    error::Mistake,
    key::KeyPath,
    layers::{End, Layers},
};
use std::{fmt, ops::RangeInclusive, time::Duration};

/// Collects what is wrong in one section.
pub(crate) struct Review<'a> {
    layers: &'a Layers,
    root: &'a KeyPath,
    mistakes: Vec<Mistake>,
}

/// A section that can judge itself.
pub(crate) trait Reviewed {
    /// Adds what is wrong with the values.
    fn review(&self, review: &mut Review<'_>);
}

impl<'a> Review<'a> {
    /// Judges a section that stands at `root`.
    pub(crate) fn of(layers: &'a Layers, root: &'a KeyPath, section: &impl Reviewed) -> Vec<Mistake> {
        let mut review = Self { layers, root, mistakes: Vec::new() };
        section.review(&mut review);
        review.mistakes
    }

    /// Refuses `key` unless `right` holds; what follows a line break in the message is the hint.
    pub(crate) fn require(&mut self, right: bool, key: &str, message: impl FnOnce() -> String) {
        if !right {
            self.refuse(key, End::Value, message());
        }
    }

    /// Refuses `key`, a path below the section.
    pub(crate) fn refuse(&mut self, key: &str, end: End, message: impl Into<String>) {
        let path = self.root.below(KeyPath::parse(key).segments());
        let message = format!("invalid `{path}`: {}", message.into());
        self.mistakes.push(self.layers.mistake(&path, end, message));
    }

    /// The first of these keys that some layer sets, else the first: the one to point at.
    pub(crate) fn first_set<'k>(&self, keys: &[&'k str]) -> &'k str {
        let is_set = |key: &&&str| self.layers.origin(&self.root.join(**key)).is_some();
        keys.iter().find(is_set).copied().unwrap_or(keys[0])
    }

    /// Refuses a number out of range.
    pub(crate) fn within<N>(&mut self, key: &str, number: N, range: RangeInclusive<N>)
    where
        N: PartialOrd + fmt::Debug + Copy,
    {
        self.require(range.contains(&number), key, || {
            format!("{number:?} is not within {:?} to {:?}", range.start(), range.end())
        });
    }

    /// Refuses a duration of zero.
    pub(crate) fn positive(&mut self, key: &str, duration: Option<Duration>) {
        self.require(duration != Some(Duration::ZERO), key, || "must be longer than 0s".to_owned());
    }
}
