//! Which registry a service belongs to: patterns, and the rule that one of them decides.

use std::{collections::BTreeMap, fmt};

use meshwork_core::{Error, ServiceName};

/// What stands before a route: the name of a service, or the beginning of names and a `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Pattern {
    Exact(ServiceName),
    Prefix(Box<str>),
}

/// A table from patterns to places, sorted so that the first match decides.
#[derive(Clone, Debug)]
pub(super) struct Routes<T> {
    exact: BTreeMap<ServiceName, T>,
    /// The longest first.
    prefixes: Vec<(Box<str>, T)>,
    default: T,
}

impl<T> Routes<T> {
    pub(super) fn new(default: T) -> Self {
        Self { exact: BTreeMap::new(), prefixes: Vec::new(), default }
    }

    /// Adds a route.
    ///
    /// # Errors
    /// `Invalid` naming the pattern, when it is malformed or was given before.
    pub(super) fn add(&mut self, pattern: &str, to: T) -> Result<(), Error> {
        let twice = || Error::invalid(format!("route `{}` is given twice", pattern.escape_debug()));
        match parse(pattern)? {
            Pattern::Exact(name) if self.exact.contains_key(&name) => return Err(twice()),
            Pattern::Exact(name) => drop(self.exact.insert(name, to)),
            Pattern::Prefix(prefix) => {
                let longer_first =
                    |known: &(Box<str>, T)| (prefix.len(), &*known.0).cmp(&(known.0.len(), &*prefix));
                match self.prefixes.binary_search_by(longer_first) {
                    Ok(_) => return Err(twice()),
                    Err(place) => self.prefixes.insert(place, (prefix, to)),
                }
            }
        }
        Ok(())
    }

    /// Where a service belongs: the exact name, else the longest beginning, else the default.
    pub(super) fn of(&self, service: &ServiceName) -> &T {
        self.exact.get(service).or_else(|| Some(&self.prefix_of(service)?.1)).unwrap_or(&self.default)
    }

    /// The pattern that decides where a service belongs, as [`iter`](Self::iter) gives it.
    pub(super) fn pattern_of(&self, service: &ServiceName) -> String {
        match self.prefix_of(service) {
            _ if self.exact.contains_key(service) => service.to_string(),
            Some((prefix, _)) => format!("{prefix}*"),
            None => "*".to_owned(),
        }
    }

    fn prefix_of(&self, service: &ServiceName) -> Option<&(Box<str>, T)> {
        self.prefixes.iter().find(|(prefix, _)| service.as_str().starts_with(&**prefix))
    }

    /// All places with their patterns: the exact names, the prefixes, the default (`*`).
    pub(super) fn iter(&self) -> impl Iterator<Item = (String, &T)> {
        let exact = self.exact.iter().map(|(name, to)| (name.to_string(), to));
        let prefixes = self.prefixes.iter().map(|(prefix, to)| (format!("{prefix}*"), to));
        exact.chain(prefixes).chain([("*".to_owned(), &self.default)])
    }

    /// The same routes to other places.
    pub(super) fn try_map<U, E>(
        &self,
        mut map: impl FnMut(&str, &T) -> Result<U, E>,
    ) -> Result<Routes<U>, E> {
        let mut exact = BTreeMap::new();
        for (name, to) in &self.exact {
            exact.insert(name.clone(), map(name.as_str(), to)?);
        }
        let prefixes =
            self.prefixes.iter().map(|(prefix, to)| Ok((prefix.clone(), map(&format!("{prefix}*"), to)?)));
        let prefixes = prefixes.collect::<Result<_, E>>()?;
        Ok(Routes { exact, prefixes, default: map("*", &self.default)? })
    }
}

fn parse(pattern: &str) -> Result<Pattern, Error> {
    let fail = |why: &dyn fmt::Display| {
        let shown = pattern.escape_debug();
        Err(Error::invalid(format!(
            "route `{shown}` {why} (a route is the name of a service, or the beginning of one and `*`)"
        )))
    };
    let Some(prefix) = pattern.strip_suffix('*') else {
        return match ServiceName::new(pattern) {
            Ok(name) => Ok(Pattern::Exact(name)),
            Err(_) if pattern.contains('*') => fail(&"has its `*` not at the end"),
            Err(_) => fail(&"cannot be a service's name"),
        };
    };
    if prefix.is_empty() {
        return fail(&"is what `default` is for");
    }
    if prefix.contains('*') {
        return fail(&"has more than one `*`");
    }
    match ServiceName::new(prefix) {
        Ok(_) => Ok(Pattern::Prefix(prefix.into())),
        Err(_) => fail(&"cannot be the beginning of a service's name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(patterns: &[&'static str]) -> Result<Routes<&'static str>, Error> {
        let mut routes = Routes::new("default");
        patterns.iter().try_for_each(|pattern| routes.add(pattern, pattern))?;
        Ok(routes)
    }

    #[test]
    fn the_exact_name_beats_the_longest_beginning_beats_the_default() {
        let patterns = ["core-*", "core-users", "core-users-*", "c*", "orders"];
        for rotation in 0..patterns.len() {
            let mut given = patterns;
            given.rotate_left(rotation);
            let routes = routes(&given).unwrap();
            for (service, to) in [
                ("core-users", "core-users"),
                ("core-users-v2", "core-users-*"),
                ("core-billing", "core-*"),
                ("core-", "core-*"),
                ("core", "c*"),
                ("orders", "orders"),
                ("orders-v2", "default"),
                ("users", "default"),
            ] {
                assert_eq!(*routes.of(&ServiceName::new(service).unwrap()), to, "{service}");
            }
        }
    }

    #[test]
    fn a_route_that_cannot_be_is_named() {
        for (pattern, why) in [
            ("*", "`default`"),
            ("", "cannot be a service's name"),
            ("**", "more than one"),
            ("a*b", "not at the end"),
            ("a*b*", "more than one"),
            ("-a*", "cannot be the beginning"),
            ("a b", "cannot be a service's name"),
            ("a/*", "cannot be the beginning"),
        ] {
            let error = routes(&[pattern]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{pattern}`")) && error.contains(why), "{pattern}: {error}");
        }
        for twice in ["core-*", "users"] {
            let error = routes(&["core-users", twice, "core-u*", twice]).unwrap_err().to_string();
            assert!(error.contains("given twice") && error.contains(twice), "{error}");
        }
    }
}
