//! Targets as people write them: `users`, `direct:///a:1,b:2`, `etcd://host:2379/users`.

use std::{collections::BTreeMap, fmt, str::FromStr};

use meshwork_core::{Endpoint, Error, Host, Query, Scheme, ServiceName};

/// What stands before `://` of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TargetScheme {
    /// None: the service is found in the registry of the `App`.
    Plain,
    /// `direct`: the endpoints stand in the target.
    Direct,
    /// `dns`: a name whose addresses are the instances.
    Dns,
    /// `etcd`: an etcd cluster of its own.
    Etcd,
    /// `consul`: a Consul agent of its own.
    Consul,
    /// `local`: the registry of this machine.
    Local,
    /// `k8s`: a Service of Kubernetes.
    K8s,
}

impl TargetScheme {
    const ALL: [Self; 6] = [Self::Direct, Self::Dns, Self::Etcd, Self::Consul, Self::Local, Self::K8s];

    /// As written before `://`; empty for a plain service name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Direct => "direct",
            Self::Dns => "dns",
            Self::Etcd => "etcd",
            Self::Consul => "consul",
            Self::Local => "local",
            Self::K8s => "k8s",
        }
    }

    /// The parameters it knows; those of `consul` belong to the query but for `scheme` and `token`.
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Direct => &["scheme"],
            Self::Dns | Self::K8s => &["scheme", "port"],
            Self::Etcd => &["prefix", "env"],
            Self::Consul => {
                &["dc", "tag", "near", "ns", "partition", "passing", "protocol", "reads", "scheme", "token"]
            }
            Self::Local => &["env", "path"],
            Self::Plain => &[],
        }
    }
}

/// A parsed target: where to look, and for what.
///
/// ```
/// # use meshwork_registry::{Target, TargetScheme};
/// let target: Target = "etcd://10.0.0.1:2379,10.0.0.2:2379/users?prefix=mesh".parse()?;
/// assert_eq!(target.scheme(), TargetScheme::Etcd);
/// assert_eq!(target.authorities(), ["10.0.0.1:2379", "10.0.0.2:2379"]);
/// assert_eq!(target.service().as_str(), "users");
/// assert_eq!(target.param("prefix"), Some("mesh"));
/// # Ok::<(), meshwork_core::Error>(())
/// ```
///
/// | written | means |
/// |---|---|
/// | `users`, `users?tag=v2` | the service `users` in the `App`'s registry |
/// | `direct:///a:1,b:2` (or `direct://a:1,b:2`) | these endpoints, `http` unless `?scheme=` or their own scheme says else |
/// | `dns:///host:port` | the addresses of `host` |
/// | `etcd://h1:2379,h2:2379/users?prefix=&env=` | `users` in that cluster |
/// | `consul://h:8500/users?dc=&tag=` | `users` at that agent; also `near`, `ns`, `partition`, `passing`, `protocol`, `reads` |
/// | `local:///users` | `users` in the registry of this machine |
/// | `k8s://ns/svc:port` | the Service `svc` of the namespace `ns` |
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    scheme: TargetScheme,
    authorities: Vec<String>,
    service: ServiceName,
    endpoints: Vec<Endpoint>,
    params: BTreeMap<Box<str>, Box<str>>,
}

impl Target {
    /// What stands before `://`.
    pub fn scheme(&self) -> TargetScheme {
        self.scheme
    }

    /// The registry's addresses, `host:port` each; the namespace of `k8s`; empty when the target has none.
    pub fn authorities(&self) -> &[String] {
        &self.authorities
    }

    /// The service; of `direct` and `dns` a name made of their first endpoint, for logs.
    pub fn service(&self) -> &ServiceName {
        &self.service
    }

    /// The endpoints of `direct`, and the name and port of `dns` and `k8s`.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// One parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(|value| &**value)
    }

    /// All parameters, sorted by name.
    pub fn params(&self) -> impl Iterator<Item = (&str, &str)> {
        self.params.iter().map(|(name, value)| (&**name, &**value))
    }

    /// What to ask the registry for: the service with the parameters that are not settings of the
    /// registry itself, and `env` as the query's environment.
    pub fn query(&self) -> Query {
        let mut query = Query::new(self.service.clone());
        for (name, value) in self.params() {
            let of_query = match self.scheme {
                TargetScheme::Consul => !matches!(name, "scheme" | "token"),
                scheme => !scheme.settings().contains(&name),
            };
            if name == "env" {
                query = query.in_env(value);
            } else if of_query {
                query = query.with(name, value);
            }
        }
        query
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|reason| {
            // A user before an `@` and parameters behind a `?` may be secrets.
            let place = text.split('?').next().unwrap_or_default();
            let (scheme, rest) = place.split_once("://").unwrap_or(("", place));
            let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
            let full = if scheme.is_empty() { rest.to_owned() } else { format!("{scheme}://{rest}") };
            let shown: String = full.chars().take(200).collect();
            Error::invalid(format!("target `{}`: {reason}", shown.escape_debug()))
        })
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

impl fmt::Display for Target {
    /// The target without the values of `token` and of whatever stands before an `@`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> =
            self.authorities.iter().map(|a| a.rsplit('@').next().unwrap_or_default()).collect();
        match self.scheme {
            TargetScheme::Plain => fmt::Display::fmt(&self.service, f)?,
            TargetScheme::Direct | TargetScheme::Dns => {
                let endpoints: Vec<_> = self.endpoints.iter().map(Endpoint::authority).collect();
                write!(f, "{}:///{}", self.scheme.as_str(), endpoints.join(","))?;
            }
            _ => write!(f, "{}://{}/{}", self.scheme.as_str(), hosts.join(","), self.service)?,
        }
        for (place, (name, value)) in self.params().enumerate() {
            let shown = if name == "token" { "…" } else { value };
            write!(f, "{}{name}={shown}", if place == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Target, String> {
    let (scheme, rest) = match text.split_once("://") {
        None => (TargetScheme::Plain, text),
        Some((name, rest)) => {
            let known = TargetScheme::ALL.into_iter().find(|scheme| scheme.as_str() == name);
            (known.ok_or_else(|| unknown_scheme(name))?, rest)
        }
    };
    let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
    let params = params(scheme, query)?;
    let mut target = Target {
        scheme,
        authorities: Vec::new(),
        service: ServiceName::new("unnamed").map_err(|e| e.to_string())?,
        endpoints: Vec::new(),
        params,
    };
    match scheme {
        TargetScheme::Plain => target.service = service(rest)?,
        TargetScheme::Direct | TargetScheme::Dns => endpoints(&mut target, rest)?,
        TargetScheme::K8s => kubernetes(&mut target, rest)?,
        TargetScheme::Etcd | TargetScheme::Consul | TargetScheme::Local => registry(&mut target, rest)?,
    }
    Ok(target)
}

fn unknown_scheme(name: &str) -> String {
    if name.parse::<Scheme>().is_ok() {
        return format!("for fixed endpoints write `direct:///host:port?scheme={name}`");
    }
    let known: Vec<_> = TargetScheme::ALL.into_iter().map(TargetScheme::as_str).collect();
    format!("scheme `{}` is none of {}", name.escape_debug(), known.join(", "))
}

fn service(text: &str) -> Result<ServiceName, String> {
    ServiceName::new(text).map_err(|e| e.to_string())
}

fn params(scheme: TargetScheme, query: Option<&str>) -> Result<BTreeMap<Box<str>, Box<str>>, String> {
    let mut params = BTreeMap::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("parameter `{pair}` has no value"))?;
        let known = scheme.settings();
        if !known.is_empty() && !known.contains(&name) {
            return Err(format!(
                "`{}` knows the parameters {}, not `{}`",
                scheme.as_str(),
                known.join(", "),
                name.escape_debug()
            ));
        }
        if params.insert(name.into(), value.into()).is_some() {
            return Err(format!("parameter `{name}` is given twice"));
        }
    }
    Ok(params)
}

fn endpoints(target: &mut Target, rest: &str) -> Result<(), String> {
    let name = target.scheme.as_str();
    let list = rest.strip_prefix('/').unwrap_or(rest);
    let scheme: Scheme = match target.param("scheme") {
        Some(scheme) => scheme.parse().map_err(|e: Error| e.to_string())?,
        None => Scheme::Http,
    };
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let endpoint = if part.contains("://") { part.to_owned() } else { format!("{scheme}://{part}") };
        target.endpoints.push(endpoint.parse().map_err(|e: Error| e.to_string())?);
    }
    let first =
        target.endpoints.first().ok_or_else(|| format!("write `{name}:///host:port` with one or more"))?;
    if target.scheme == TargetScheme::Dns && target.endpoints.len() > 1 {
        return Err("`dns` takes one name".to_owned());
    }
    target.service = service_of(first)?;
    Ok(())
}

fn service_of(endpoint: &Endpoint) -> Result<ServiceName, String> {
    let host = match endpoint.host() {
        Host::Ip(ip) => ip.to_string().replace(':', "_"),
        Host::Name(name) => name.chars().take(100).collect(),
    };
    service(&format!("{}-{}", host.trim_start_matches(['_', '-']), endpoint.port()))
}

fn kubernetes(target: &mut Target, rest: &str) -> Result<(), String> {
    let form = "write `k8s://namespace/service:port`";
    let (namespace, rest) = rest.split_once('/').ok_or(form)?;
    if namespace.is_empty() {
        return Err(form.to_owned());
    }
    let (name, port) = rest.rsplit_once(':').ok_or(form)?;
    target.service = service(name)?;
    target.authorities.push(service(namespace)?.as_str().to_owned());
    target.endpoints.push(format!("http://{name}:{port}").parse().map_err(|e: Error| e.to_string())?);
    Ok(())
}

fn registry(target: &mut Target, rest: &str) -> Result<(), String> {
    let name = target.scheme.as_str();
    let is_local = target.scheme == TargetScheme::Local;
    let (hosts, path) = rest.split_once('/').ok_or_else(|| match is_local {
        true => "write `local:///service`".to_owned(),
        false => format!("write `{name}://host:port/service`"),
    })?;
    for host in hosts.split(',').filter(|host| !host.is_empty()) {
        let address = host.rsplit('@').next().unwrap_or_default();
        format!("http://{address}")
            .parse::<Endpoint>()
            .map_err(|_| format!("`{}` is not host:port", address.escape_debug()))?;
        target.authorities.push(host.to_owned());
    }
    match (is_local, target.authorities.is_empty()) {
        (true, false) => {
            return Err("`local` is this machine and takes no host: `local:///service`".to_owned());
        }
        (false, true) => return Err(format!("write `{name}://host:port/service` with at least one host")),
        _ => {}
    }
    target.service = service(path.trim_end_matches('/'))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn a_plain_name_is_a_service_of_the_own_registry() {
        let users = target("users?tag=v2");
        assert_eq!((users.scheme(), users.service().as_str()), (TargetScheme::Plain, "users"));
        assert_eq!(users.query().param("tag"), Some("v2"));
        assert_eq!(users.to_string(), "users?tag=v2");
    }

    #[test]
    fn direct_lists_its_endpoints_in_both_spellings() {
        for text in ["direct:///a:1,b:2", "direct://a:1,b:2"] {
            let direct = target(text);
            let endpoints: Vec<_> = direct.endpoints().iter().map(ToString::to_string).collect();
            assert_eq!(endpoints, ["http://a:1", "http://b:2"]);
            assert_eq!(direct.to_string(), "direct:///a:1,b:2");
        }
        let tls = target("direct:///10.0.0.1:443,grpc://[::1]:90?scheme=https");
        assert_eq!(tls.endpoints()[0].to_string(), "https://10.0.0.1:443");
        assert_eq!(tls.endpoints()[1].to_string(), "grpc://[::1]:90");
        assert_eq!(target("direct:///[::1]:90").service().as_str(), "1-90");
    }

    #[test]
    fn registries_keep_their_addresses_and_settings_apart_from_the_query() {
        let etcd = target("etcd://user:secret@h1:2379,h2:2379/users?prefix=mesh&env=prod");
        assert_eq!(etcd.authorities(), ["user:secret@h1:2379", "h2:2379"]);
        assert_eq!(etcd.query().env(), Some("prod"));
        assert_eq!(etcd.query().params().count(), 0);
        assert_eq!(etcd.to_string(), "etcd://h1:2379,h2:2379/users?env=prod&prefix=mesh");
        let consul = target("consul://127.0.0.1:8500/users?dc=a&tag=v2&token=x");
        assert_eq!(consul.query().params().collect::<Vec<_>>(), [("dc", "a"), ("tag", "v2")]);
        let asked =
            target("consul://h:1/users?near=_agent&passing=true&protocol=grpc&reads=stale&ns=a&partition=b");
        assert_eq!(asked.query().params().count(), 6);
        assert!(!consul.to_string().contains("token=x"));
        assert_eq!(target("local:///users").service().as_str(), "users");
        let k8s = target("k8s://prod/users:8080");
        assert_eq!((k8s.authorities(), k8s.endpoints()[0].port()), (&["prod".to_owned()][..], 8080));
    }

    #[test]
    fn no_secret_is_shown_by_an_error_or_by_debug() {
        for text in ["consul://h:1/users?token=s3cret&wait=5s", "etcd://root:s3cret@h:2379"] {
            let said = text.parse::<Target>().unwrap_err().to_string();
            assert!(!said.contains("s3cret") && said.contains("://h:"), "{said}");
        }
        for text in ["consul://h:1/users?token=s3cret", "etcd://root:s3cret@h:2379/users"] {
            let said = format!("{:?}", target(text));
            assert!(!said.contains("s3cret") && said.contains("users"), "{said}");
        }
    }

    #[test]
    fn mistakes_are_answered_with_the_right_form() {
        for (text, hint) in [
            ("", "it is empty"),
            ("../users", "service name"),
            ("http://a:1", "direct:///host:port?scheme=http"),
            ("zk://a:1/users", "none of direct, dns, etcd"),
            ("direct:///", "direct:///host:port"),
            ("direct:///a", "scheme://host:port"),
            ("direct:///a:0", "port 0"),
            ("dns:///a:1,b:2", "one name"),
            ("etcd:///users", "at least one host"),
            ("etcd://h:2379", "etcd://host:port/service"),
            ("etcd://h/users", "`h` is not host:port"),
            ("etcd://h:2379/a/b", "service name"),
            ("etcd://h:2379/users?tag=1", "prefix, env, not `tag`"),
            ("etcd://h:2379/users?prefix", "has no value"),
            ("etcd://h:2379/users?prefix=a&prefix=b", "twice"),
            ("local://h:1/users", "takes no host"),
            ("local:users", "service name"),
            ("k8s://prod/users", "k8s://namespace/service:port"),
        ] {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
