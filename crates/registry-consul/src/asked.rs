//! What a query asks of Consul: its parameters, and what the configuration says where it has none.

use meshwork_core::{Error, Query, Scheme};

use crate::{
    config::{ConsulConfig, Reads},
    names, texts,
};

/// The parameters that queries may have.
const KNOWN: [&str; 8] = ["dc", "near", "ns", "partition", "passing", "protocol", "reads", "tag"];

/// One look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The exact name.
    pub(crate) service: Box<str>,
    /// The names in Consul.
    pub(crate) names: Vec<String>,
    /// The datacenters in their order; `None` is the agent's own.
    pub(crate) datacenters: Vec<Option<String>>,
    /// All of them must be there.
    pub(crate) tags: Vec<String>,
    pub(crate) near: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) partition: Option<String>,
    pub(crate) passing: bool,
    pub(crate) reads: Reads,
    /// The protocol of foreign instances that do not say theirs.
    pub(crate) protocol: Option<Scheme>,
    /// The environment of native instances.
    pub(crate) env: Box<str>,
}

impl Asked {
    /// Reads a query.
    ///
    /// # Errors
    /// `Invalid` naming the parameter.
    pub(crate) fn of(query: &Query, config: &ConsulConfig, env: &str) -> Result<Self, Error> {
        query.only(&KNOWN)?;
        let invalid = |name: &str, allowed: &str| {
            let value = query.param(name).unwrap_or_default();
            Error::invalid(format!("query parameter `{name}` = `{}` is not {allowed}", value.escape_debug()))
        };
        let text = |name: &str| query.param(name).filter(|value| !value.is_empty()).map(str::to_owned);
        let datacenters = match query.param("dc") {
            Some(list) => texts::split(list),
            None => config.datacenters.clone(),
        };
        let datacenters =
            if datacenters.is_empty() { vec![None] } else { datacenters.into_iter().map(Some).collect() };
        let passing = match query.param("passing") {
            None => config.passing,
            Some("true" | "1" | "") => true,
            Some("false" | "0") => false,
            Some(_) => return Err(invalid("passing", "true or false")),
        };
        let reads = match query.param("reads") {
            None => config.reads,
            Some("default") => Reads::Default,
            Some("stale") => Reads::Stale,
            Some("consistent") => Reads::Consistent,
            Some(_) => return Err(invalid("reads", "default, stale or consistent")),
        };
        let protocol = match query.param("protocol") {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| invalid("protocol", "http, https, grpc or grpcs"))?),
        };
        Ok(Self {
            service: query.service().as_str().into(),
            names: names::asked(query.service()),
            datacenters,
            tags: query.param("tag").map(texts::split).unwrap_or_default(),
            near: text("near").or_else(|| config.near.clone()),
            namespace: text("ns"),
            partition: text("partition"),
            passing,
            reads,
            protocol,
            env: query.env().unwrap_or(env).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::ServiceName;

    use super::*;

    fn asked(params: &[(&str, &str)]) -> Result<Asked, Error> {
        let mut query = Query::new(ServiceName::new("users").unwrap());
        for (name, value) in params {
            query = query.with(*name, *value);
        }
        Asked::of(&query, &ConsulConfig::default(), "dev")
    }

    #[test]
    fn parameters_override_the_configuration() {
        let plain = asked(&[]).unwrap();
        assert_eq!((plain.datacenters, plain.passing, &*plain.env), (vec![None], false, "dev"));
        let full = asked(&[
            ("dc", "a, b"),
            ("tag", "v2,x"),
            ("near", "_agent"),
            ("passing", "true"),
            ("reads", "stale"),
            ("protocol", "grpc"),
            ("ns", "team"),
        ])
        .unwrap();
        assert_eq!(full.datacenters, [Some("a".to_owned()), Some("b".to_owned())]);
        assert_eq!((full.tags.len(), full.passing, full.reads), (2, true, Reads::Stale));
        assert_eq!((full.protocol, full.namespace.as_deref()), (Some(Scheme::Grpc), Some("team")));
    }

    #[test]
    fn mistakes_are_named() {
        for (name, value) in [("dcs", "a"), ("passing", "perhaps"), ("reads", "dirty"), ("protocol", "ftp")] {
            let error = asked(&[(name, value)]).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }
}
