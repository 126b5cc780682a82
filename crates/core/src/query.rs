//! What a client asks a discovery for.

use std::{collections::BTreeMap, fmt};

use crate::{Error, ServiceName};

/// A service and the parameters of a look-up (`dc`, `tag`, `namespace`, `port`, …).
///
/// Two equal queries share one subscription. A parameter that the backend does not know makes the view
/// `Pending` with an [`Invalid`](crate::ErrorKind::Invalid) cause.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Query {
    service: ServiceName,
    env: Box<str>,
    params: BTreeMap<Box<str>, Box<str>>,
}

impl Query {
    /// All instances of `service`.
    pub fn new(service: ServiceName) -> Self {
        Self { service, env: "".into(), params: BTreeMap::new() }
    }

    /// In this environment instead of the one the backend was opened for.
    #[must_use]
    pub fn in_env(mut self, env: impl Into<Box<str>>) -> Self {
        self.env = env.into();
        self
    }

    /// The environment asked for; `None` = the one the backend was opened for.
    pub fn env(&self) -> Option<&str> {
        (!self.env.is_empty()).then_some(&self.env)
    }

    /// Adds a parameter; a repeated name takes the last value.
    #[must_use]
    pub fn with(mut self, name: impl Into<Box<str>>, value: impl Into<Box<str>>) -> Self {
        self.params.insert(name.into(), value.into());
        self
    }

    /// The service.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The value of one parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(|value| &**value)
    }

    /// All parameters, sorted by name.
    pub fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Refuses parameters that are not in `known`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) naming the first unknown one and those known.
    pub fn only(&self, known: &[&str]) -> Result<(), Error> {
        match self.params.keys().find(|name| !known.contains(&&***name)) {
            None => Ok(()),
            Some(name) if known.is_empty() => {
                Err(Error::invalid(format!("query parameter `{name}`: this registry knows none")))
            }
            Some(name) => Err(Error::invalid(format!(
                "query parameter `{name}`: this registry knows {}",
                known.join(", ")
            ))),
        }
    }
}

impl From<ServiceName> for Query {
    fn from(service: ServiceName) -> Self {
        Self::new(service)
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.service, f)?;
        for (place, (name, value)) in self.params.iter().enumerate() {
            write!(f, "{}{name}={value}", if place == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_parameter_is_named_with_those_known() {
        let query = Query::new(ServiceName::new("users").unwrap()).with("tag", "v2");
        assert_eq!(query.to_string(), "users?tag=v2");
        assert!(query.only(&["dc", "tag"]).is_ok());
        assert_eq!(
            query.only(&["dc"]).unwrap_err().to_string(),
            "query parameter `tag`: this registry knows dc"
        );
    }
}
