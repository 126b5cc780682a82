//! What must run before a service can serve, and be put away after it: databases, caches, brokers.

use std::{collections::BTreeSet, fmt, time::Duration};

use meshwork_core::Error;
use tokio::time::Instant;

use crate::{
    Handle,
    contain::Failure,
    hooks::{Hook, Outcome},
};

/// Something that is started before the instance is announced and stopped after its last call.
///
/// Components start one after the other in the order in which the [`App`](crate::App) was given them, each
/// [`after`](Self::after) those it names; they stop in reverse, and only those that had started. When a later step of the start
/// fails, what had started is stopped just so.
///
/// ```
/// # use std::time::Duration;
/// # use meshwork::{App, BoxError, Component};
/// # async fn connect() -> Result<(), BoxError> { Ok(()) }
/// let database = Component::new("database")
///     .start(|_| async { connect().await })
///     .start_timeout(Duration::from_secs(10))
///     .stop(|_| async { /* close the pool */ });
/// let app = App::new().component(database);
/// ```
#[must_use = "a component does nothing until an app has it"]
pub struct Component {
    name: Box<str>,
    after: Vec<Box<str>>,
    start: Option<Hook>,
    stop: Option<Hook>,
    start_timeout: Duration,
    stop_timeout: Duration,
}

impl Component {
    /// A component with nothing to do. Its name is unique in an app and stands in every message about it.
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self {
            name: name.into(),
            after: Vec::new(),
            start: None,
            stop: None,
            start_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(5),
        }
    }

    /// What starts it: it has started when the future ends, and the next step waits for that. An error, a panic or the time-out
    /// ends the start of the app with exit code 5.
    pub fn start<F, Fut>(mut self, code: F) -> Self
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.start = Some(Hook::new("", None, code));
        self
    }

    /// What stops it, run only if its start ended well.
    pub fn stop<F, Fut>(mut self, code: F) -> Self
    where
        F: FnOnce(Handle) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Outcome,
    {
        self.stop = Some(Hook::new("", None, code));
        self
    }

    /// Starts it only after the component of this name, and stops it before; again = after that too.
    pub fn after(mut self, name: impl Into<Box<str>>) -> Self {
        self.after.push(name.into());
        self
    }

    /// The longest its start may take, more than zero. Default 30 s; never longer than `service.start_timeout` in all.
    pub fn start_timeout(mut self, limit: Duration) -> Self {
        self.start_timeout = limit;
        self
    }

    /// The longest its stop may take, more than zero. Default 5 s; never longer than what is left of `drain.deadline`.
    pub fn stop_timeout(mut self, limit: Duration) -> Self {
        self.stop_timeout = limit;
        self
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Component")
            .field("name", &self.name)
            .field("after", &self.after)
            .finish_non_exhaustive()
    }
}

/// The components of one app: those to be started in their order, and what stops those that have.
#[derive(Default)]
pub(crate) struct Components {
    waiting: Vec<Component>,
    started: Vec<Hook>,
}

impl Components {
    pub(crate) fn add(&mut self, component: Component) {
        self.waiting.push(component);
    }

    /// Brings them into the order in which they start: as declared, each after those that it names.
    ///
    /// # Errors
    /// `Invalid`: a name that is empty or given twice, an `after` that leads nowhere or in a circle, a time-out of zero.
    pub(crate) fn arrange(&mut self) -> Result<(), Error> {
        judge(&self.waiting)?;
        let mut left: Vec<_> = std::mem::take(&mut self.waiting);
        let mut placed = BTreeSet::new();
        while !left.is_empty() {
            let is_next = |component: &Component| component.after.iter().all(|name| placed.contains(name));
            let Some(place) = left.iter().position(is_next) else { return Err(circle(&left)) };
            let component = left.remove(place);
            placed.insert(component.name.clone());
            self.waiting.push(component);
        }
        Ok(())
    }

    /// The name of the component to be started next.
    pub(crate) fn next(&self) -> Option<Box<str>> {
        self.waiting.first().map(|component| component.name.clone())
    }

    /// Starts the next one, until `limit` at most.
    ///
    /// # Errors
    /// How it failed; it counts as not started then.
    ///
    /// # Cancel safety
    /// Dropping the future cuts its start; it counts as not started then.
    pub(crate) async fn start_next(&mut self, handle: Handle, limit: Instant) -> Result<(), Failure> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let Component { name, start, stop, start_timeout, stop_timeout, .. } = self.waiting.remove(0);
        if let Some(start) = start {
            start.named(format!("component `{name}`"), start_timeout).run(handle, limit).await?;
        }
        tracing::debug!(component = %name, "started");
        if let Some(stop) = stop {
            self.started.push(stop.named(format!("component `{name}`"), stop_timeout));
        }
        Ok(())
    }

    /// What stops those that have started, the last first.
    pub(crate) fn into_stops(self) -> impl Iterator<Item = Hook> {
        self.started.into_iter().rev()
    }
}

fn judge(components: &[Component]) -> Result<(), Error> {
    let mut names = BTreeSet::new();
    for Component { name, start_timeout, stop_timeout, .. } in components {
        if name.is_empty() {
            return Err(Error::invalid("a component has an empty name"));
        }
        if !names.insert(name) {
            return Err(Error::invalid(format!("two components are named `{name}`")));
        }
        for (limit, what) in [(start_timeout, "start_timeout"), (stop_timeout, "stop_timeout")] {
            if limit.is_zero() {
                return Err(Error::invalid(format!(
                    "component `{name}`: its `{what}` must be longer than 0s"
                )));
            }
        }
    }
    for Component { name, after, .. } in components {
        if let Some(missing) = after.iter().find(|after| !names.contains(after)) {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let text = format!(
                "component `{name}` starts after `{missing}`, which there is not; there are {}",
                names.join(", ")
            );
            return Err(Error::invalid(text));
        }
    }
    Ok(())
}

/// Names one circle of components that wait for each other: from anyone, those that are waited for lead into one.
fn circle(left: &[Component]) -> Error {
    let mut walk: Vec<&str> = Vec::new();
    let mut at = left.first();
    while let Some(component) = at {
        walk.push(&component.name);
        let before = component.after.iter().find_map(|name| left.iter().find(|other| other.name == *name));
        if let Some(start) = before.and_then(|before| walk.iter().position(|name| *name == &*before.name)) {
            let around: Vec<_> =
                walk[start..].iter().chain([&walk[start]]).map(|name| format!("`{name}`")).collect();
            return Error::invalid(format!("components wait for each other: {}", around.join(" after ")));
        }
        at = before;
    }
    Error::invalid("components wait for each other")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arranged<const N: usize>(components: [(&str, &[&str]); N]) -> Result<Vec<String>, String> {
        let mut all = Components::default();
        for (name, after) in components {
            let component = Component::new(name);
            all.add(after.iter().fold(component, |component, name| component.after(*name)));
        }
        all.arrange().map_err(|error| error.to_string())?;
        Ok(all.waiting.iter().map(|component| component.name.to_string()).collect())
    }

    #[test]
    fn they_start_as_declared_and_after_those_they_name() {
        assert_eq!(arranged([("b", &[]), ("a", &[])]).unwrap(), ["b", "a"]);
        let order =
            arranged([("cache", &["database"]), ("mail", &[]), ("database", &["vault"]), ("vault", &[])]);
        assert_eq!(order.unwrap(), ["mail", "vault", "database", "cache"]);
    }

    #[test]
    fn what_cannot_be_arranged_is_named() {
        let said = |outcome: Result<Vec<String>, String>| outcome.unwrap_err();
        let twice = said(arranged([("a", &[]), ("a", &[])]));
        assert!(twice.contains("two components are named `a`"), "{twice}");
        let nowhere = said(arranged([("a", &["cash"]), ("cache", &[])]));
        assert!(nowhere.contains("`cash`") && nowhere.contains("`cache`"), "{nowhere}");
        let around = said(arranged([("x", &["a"]), ("a", &["b"]), ("b", &["c"]), ("c", &["a"])]));
        assert!(around.contains("`a` after `b` after `c` after `a`"), "{around}");
        let itself = said(arranged([("a", &["a"])]));
        assert!(itself.contains("`a` after `a`"), "{itself}");
        assert!(said(arranged([("", &[])])).contains("empty name"));
    }
}
