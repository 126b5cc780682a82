//! Where the greeters announce themselves: as written on the command line, and as configuration.

use std::{fmt, path::Path, str::FromStr};

/// A registry by its kind, with the addresses of its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Registry {
    Local,
    Etcd(Vec<String>),
    Consul(String),
    /// The primary and the secondary.
    Dual(Box<[Registry; 2]>),
}

/// The value of a key of the configuration.
enum Value {
    Text(String),
    List(Vec<String>),
}

// === impl Registry ===

impl Registry {
    /// As environment variables.
    pub(crate) fn variables(&self, dir: &Path) -> Vec<(String, String)> {
        let name = |key: &str| format!("MESHWORK__{}", key.replace('.', "__").to_uppercase());
        let text = |value| match value {
            Value::Text(text) => text,
            list @ Value::List(_) => list.to_string(),
        };
        self.keys(dir).into_iter().map(|(key, value)| (name(&key), text(value))).collect()
    }

    /// As TOML.
    pub(crate) fn toml(&self, dir: &Path) -> String {
        self.keys(dir).iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
    }

    fn keys(&self, dir: &Path) -> Vec<(String, Value)> {
        let key = |key: &str, value: &str| (format!("registry.{key}"), Value::Text(value.to_owned()));
        let mut keys = vec![key("use", self.table())];
        self.tables(dir, &mut keys);
        keys
    }

    /// The keys of its own table, and of those it leads to. What is dead should be listed for seconds only.
    fn tables(&self, dir: &Path, keys: &mut Vec<(String, Value)>) {
        let mut set = |key: &str, value| keys.push((format!("registry.{}.{key}", self.table()), value));
        let text = |text: &str| Value::Text(text.to_owned());
        match self {
            Self::Local => set("dir", text(&dir.display().to_string())),
            Self::Etcd(urls) => {
                set("endpoints", Value::List(urls.clone()));
                set("lease_ttl", text("3s"));
            }
            Self::Consul(url) => {
                set("address", text(url));
                set("ttl", text("3s"));
            }
            Self::Dual(sides) => {
                set("kind", text("dual"));
                set("primary", text(sides[0].table()));
                set("secondary", text(sides[1].table()));
                sides.iter().for_each(|side| side.tables(dir, keys));
            }
        }
    }

    fn table(&self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Etcd(_) => "etcd",
            Self::Consul(_) => "consul",
            Self::Dual(_) => "both",
        }
    }
}

impl fmt::Display for Value {
    /// As TOML.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{text:?}"),
            Self::List(items) => write!(f, "{items:?}"),
        }
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local => f.write_str("local"),
            Self::Etcd(urls) => write!(f, "etcd {}", urls.join(",")),
            Self::Consul(url) => write!(f, "consul {url}"),
            Self::Dual(sides) => write!(f, "{} (primary) and {} (secondary)", sides[0], sides[1]),
        }
    }
}

impl FromStr for Registry {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("dual", sides)) => dual(sides),
            _ => single(text),
        }
    }
}

fn single(text: &str) -> Result<Registry, String> {
    let lacking = |kind: &str| {
        Err(format!(
            "this build has no {kind}; add the feature: \
             cargo run -p quickstart --features {kind} -- --registry {kind}=http://…"
        ))
    };
    let url = |url: &str| match url.strip_prefix("http://") {
        Some(host) if !host.is_empty() => Ok(url.to_owned()),
        _ => Err(format!("`{url}` is not http://host:port")),
    };
    match text.split_once('=') {
        None if text == "local" => Ok(Registry::Local),
        Some(("etcd", _)) if !cfg!(feature = "etcd") => lacking("etcd"),
        Some(("consul", _)) if !cfg!(feature = "consul") => lacking("consul"),
        Some(("etcd", urls)) => Ok(Registry::Etcd(urls.split(',').map(url).collect::<Result<_, _>>()?)),
        Some(("consul", one)) => Ok(Registry::Consul(url(one)?)),
        _ => Err(format!(
            "`{text}` is none of `local`, `etcd=http://host:2379`, `consul=http://host:8500` and `dual=…,…`"
        )),
    }
}

/// Two registries; a comma begins the second one where a kind follows it.
fn dual(text: &str) -> Result<Registry, String> {
    let mut sides: Vec<String> = Vec::new();
    for part in text.split(',') {
        match sides.last_mut() {
            Some(last) if part.starts_with("http") => *last += &format!(",{part}"),
            _ => sides.push(part.to_owned()),
        }
    }
    let [primary, secondary] = &sides[..] else {
        return Err(format!(
            "`dual` takes two registries, not {}: dual=etcd=http://host:2379,consul=http://host:8500",
            sides.len()
        ));
    };
    let (primary, secondary) = (single(primary)?, single(secondary)?);
    if primary.table() == secondary.table() {
        return Err(format!("`dual` takes two different registries, not {} twice", primary.table()));
    }
    Ok(Registry::Dual(Box::new([primary, secondary])))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        text.parse::<Registry>().unwrap_err()
    }

    #[test]
    fn a_registry_without_a_server_becomes_two_keys() {
        let local: Registry = "local".parse().unwrap();
        let dir = Path::new("/tmp/x");
        assert_eq!(local.toml(dir), "registry.use = \"local\"\nregistry.local.dir = \"/tmp/x\"\n");
        assert_eq!(local.variables(dir)[1], ("MESHWORK__REGISTRY__LOCAL__DIR".into(), "/tmp/x".into()));
    }

    #[cfg(all(feature = "etcd", feature = "consul"))]
    #[test]
    fn a_dual_names_its_sides() {
        let dual: Registry = "dual=etcd=http://a:1,http://b:2,consul=http://c:3".parse().unwrap();
        assert_eq!(
            dual.to_string(),
            "etcd http://a:1,http://b:2 (primary) and consul http://c:3 (secondary)"
        );
        let variables = dual.variables(Path::new("/tmp/x"));
        for (name, value) in [
            ("MESHWORK__REGISTRY__USE", "both"),
            ("MESHWORK__REGISTRY__BOTH__KIND", "dual"),
            ("MESHWORK__REGISTRY__BOTH__PRIMARY", "etcd"),
            ("MESHWORK__REGISTRY__BOTH__SECONDARY", "consul"),
            ("MESHWORK__REGISTRY__ETCD__ENDPOINTS", "[\"http://a:1\", \"http://b:2\"]"),
            ("MESHWORK__REGISTRY__CONSUL__ADDRESS", "http://c:3"),
        ] {
            assert!(variables.contains(&(name.to_owned(), value.to_owned())), "{name} in {variables:?}");
        }
        assert!("dual=consul=http://c:3,local".parse::<Registry>().is_ok());
    }

    #[cfg(all(feature = "etcd", feature = "consul"))]
    #[test]
    fn a_dual_that_cannot_be_is_refused_with_the_right_form() {
        assert!(refused("dual=etcd=http://a:1").contains("takes two registries, not 1"));
        assert!(refused("dual=etcd=http://a:1,consul=http://b:1,local").contains("not 3"));
        assert!(refused("dual=etcd=http://a:1,etcd=http://b:1").contains("not etcd twice"));
        assert!(refused("dual=etcd=http://a:1,zk=x:1").contains("`zk=x:1` is none of"));
        assert!(refused("consul=https://a:1").contains("not http://host:port"));
        assert!(refused("etcd=http://").contains("not http://host:port"));
    }

    #[test]
    fn an_unknown_kind_is_answered_with_those_there_are() {
        for text in ["", "etdc=http://a:1", "local=x", "dual=x,y"] {
            assert!(refused(text).contains("none of `local`"), "{text}: {}", refused(text));
        }
    }
}
