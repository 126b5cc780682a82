//! The health checks of what is announced, as Consul's agent takes them.

use std::time::Duration;

use meshwork_core::{Endpoint, Error, Instance};
use meshwork_registry::durations;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::durations::for_consul;

/// What our server answers by itself.
const READY_PATH: &str = "/.meshwork/ready";

/// The kinds of checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Kind {
    /// The instance tells the agent that it lives.
    #[default]
    Ttl,
    /// The agent asks the instance: 2xx is passing, 429 warning, anything else critical.
    Http,
    /// The agent asks the instance's `grpc.health.v1.Health`.
    Grpc,
    /// The agent connects to the instance.
    Tcp,
    /// The agent runs a program: 0 is passing, 1 warning, anything else critical. Only where the agent
    /// has `enable_script_checks`: what comes over its API counts as remote.
    Script,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ttl => "ttl",
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Script => "script",
        }
    }
}

/// One health check of `[registry.consul] checks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Check {
    /// What kind it is: `ttl`, `http`, `grpc`, `tcp` or `script`. Default: `ttl`.
    pub kind: Kind,
    /// What `http` asks for. Default: `/.meshwork/ready`.
    pub path: Option<String>,
    /// The service that `grpc` asks about. Default: the whole server.
    pub service: Option<String>,
    /// The program of `script` and its arguments.
    pub args: Vec<String>,
    /// How often the agent checks; not for `ttl`. At least 1 s. Default: `5s`.
    #[serde(with = "durations")]
    pub interval: Duration,
    /// How long one check may take; not for `ttl`. Default: `2s`.
    #[serde(with = "durations")]
    pub timeout: Duration,
}

impl Default for Check {
    fn default() -> Self {
        Self::new(Kind::Ttl)
    }
}

impl Check {
    /// A check of this kind with its defaults.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            path: None,
            service: None,
            args: Vec::new(),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
        }
    }

    /// With another interval.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// With another path to ask for; of kind `http`.
    #[must_use]
    pub fn at_path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// With this program and arguments; of kind `script`.
    #[must_use]
    pub fn running<A: Into<String>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args = args.into_iter().map(Into::into).collect();
        self
    }

    /// Refuses what cannot work.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let kind = self.kind.as_str();
        if self.kind == Kind::Script && self.args.is_empty() {
            return Err(Error::invalid("consul check of kind `script` without `args`"));
        }
        if self.kind != Kind::Ttl && (self.interval < Duration::from_secs(1) || self.timeout.is_zero()) {
            return Err(Error::invalid(format!(
                "consul check of kind `{kind}`: `interval` is at least 1s, `timeout` not 0"
            )));
        }
        if self.path.as_ref().is_some_and(|path| !path.starts_with('/')) {
            return Err(Error::invalid("consul check: `path` does not begin with `/`"));
        }
        Ok(())
    }

    /// Its id at the agent.
    pub(crate) fn id(&self, instance: &Instance) -> String {
        format!("{}:{}", instance.id, self.kind.as_str())
    }

    /// What the agent takes, in state `status` at the start.
    ///
    /// # Errors
    /// `Invalid` when the instance has no endpoint that could be checked this way.
    pub(crate) fn definition(
        &self,
        instance: &Instance,
        ttl: Duration,
        deregister_after: Duration,
        status: &str,
    ) -> Result<Value, Error> {
        let mut json = Map::new();
        let name = format!("{} of {}", self.kind.as_str(), instance.service);
        json.insert("CheckID".to_owned(), json!(self.id(instance)));
        json.insert("Name".to_owned(), json!(name));
        json.insert("Status".to_owned(), json!(status));
        json.insert("DeregisterCriticalServiceAfter".to_owned(), json!(for_consul(deregister_after)));
        let endpoint = |what: &str, is_it: fn(&Endpoint) -> bool| {
            instance.endpoints.iter().find(|endpoint| is_it(endpoint)).ok_or_else(|| {
                let kind = self.kind.as_str();
                Error::invalid(format!(
                    "announcing `{}`: its check `{kind}` needs {what} endpoint",
                    instance.id
                ))
            })
        };
        let (key, value) = match self.kind {
            Kind::Ttl => ("TTL", json!(for_consul(ttl))),
            Kind::Http => {
                let http = endpoint("an http", |e| !e.scheme().is_grpc())?;
                ("HTTP", json!(format!("{http}{}", self.path.as_deref().unwrap_or(READY_PATH))))
            }
            Kind::Grpc => {
                let grpc =
                    endpoint("a grpc", |e| e.scheme().is_grpc()).or_else(|_| endpoint("an", |_| true))?;
                if grpc.scheme().is_tls() {
                    json.insert("GRPCUseTLS".to_owned(), json!(true));
                }
                let service = self.service.as_ref().map(|service| format!("/{service}"));
                ("GRPC", json!(format!("{}{}", grpc.authority(), service.unwrap_or_default())))
            }
            Kind::Tcp => ("TCP", json!(endpoint("an", |_| true)?.authority())),
            Kind::Script => ("Args", json!(self.args)),
        };
        json.insert(key.to_owned(), value);
        if self.kind != Kind::Ttl {
            json.insert("Interval".to_owned(), json!(for_consul(self.interval)));
            json.insert("Timeout".to_owned(), json!(for_consul(self.timeout)));
        }
        Ok(Value::Object(json))
    }
}

#[cfg(test)]
mod tests {
    use meshwork_core::{InstanceId, ServiceName};

    use super::*;

    fn definition(check: &Check, endpoints: &[&str]) -> Result<Value, Error> {
        let id = InstanceId::new("users-1").unwrap();
        let mut instance = Instance::with_id(ServiceName::new("users").unwrap(), id);
        instance.endpoints = endpoints.iter().map(|e| e.parse().unwrap()).collect();
        check.definition(&instance, Duration::from_secs(15), Duration::from_secs(60), "passing")
    }

    #[test]
    fn every_kind_is_written_as_the_agent_takes_it() {
        let both = ["grpcs://10.0.0.1:90", "http://10.0.0.1:80"];
        let of = |check: &Check| definition(check, &both).unwrap();
        let ttl = of(&Check::default());
        assert_eq!((ttl["TTL"].as_str(), ttl["CheckID"].as_str()), (Some("15000ms"), Some("users-1:ttl")));
        assert_eq!(ttl["DeregisterCriticalServiceAfter"], "60000ms");
        assert_eq!(of(&Check::new(Kind::Http))["HTTP"], "http://10.0.0.1:80/.meshwork/ready");
        let mut grpc = Check::new(Kind::Grpc).every(Duration::from_secs(7));
        grpc.service = Some("users.v1".to_owned());
        let grpc = of(&grpc);
        assert_eq!((&grpc["GRPC"], &grpc["GRPCUseTLS"]), (&json!("10.0.0.1:90/users.v1"), &json!(true)));
        assert_eq!(grpc["Interval"], "7000ms");
        assert_eq!(of(&Check::new(Kind::Tcp))["TCP"], "10.0.0.1:90");
        assert_eq!(of(&Check::new(Kind::Script).running(["a", "b"]))["Args"], json!(["a", "b"]));
    }

    #[test]
    fn a_check_without_an_endpoint_is_refused_by_its_kind() {
        let error = definition(&Check::new(Kind::Http), &["grpc://10.0.0.1:90"]).unwrap_err();
        assert!(error.to_string().contains("`http`"), "{error}");
        assert!(definition(&Check::new(Kind::Grpc), &["http://10.0.0.1:80"]).is_ok());
    }
}
