//! Names of services and ids of foreign instances, between Consul and Meshwork.
//!
//! **Services.** Consul's DNS carries `[A-Za-z0-9-]` and at most 63 bytes. A name within that is written as it
//! is. Any other is refused or mapped, as `names` says: every other character becomes `-`, and a longer name
//! is cut to 54 bytes and gets `-` and 8 hexadecimal digits of its FNV-1a hash. The exact name stands in the
//! Meta key `meshwork-service`, so names that map to the same text stay apart.
//!
//! **Foreign ids.** A service id is unique per agent only, so the id of a foreign instance is
//! `<service id>.<node>`. Characters that an [`InstanceId`] cannot have become `-`, a first one that is no
//! letter or digit gets an `x` before it, and whatever had to be changed or cut ends in `-` and 16
//! hexadecimal digits of the hash of the exact pair, so that no two pairs share an id.

use meshwork_core::{Error, InstanceId, ServiceName};
use serde::{Deserialize, Serialize};

/// The longest name that Consul's DNS carries.
const DNS_LABEL: usize = 63;
const LONGEST_ID: usize = 128;

/// What happens at registration to a name that Consul's DNS cannot carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Names {
    /// It is mapped: other characters than letters, digits and `-` become `-`, what is longer than 63 bytes
    /// is cut and hashed.
    #[default]
    Map,
    /// The registration is refused.
    Refuse,
}

/// Whether Consul's DNS carries the name as it is.
pub(crate) fn is_dns(name: &str) -> bool {
    name.len() <= DNS_LABEL && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// The name under which a service is registered.
///
/// # Errors
/// `Invalid` when DNS cannot carry it and `rule` refuses that.
pub(crate) fn registered(name: &ServiceName, rule: Names) -> Result<String, Error> {
    if is_dns(name.as_str()) || rule == Names::Map {
        return Ok(mapped(name.as_str()));
    }
    Err(Error::invalid(format!(
        "registering `{name}`: Consul's DNS carries only letters, digits and `-`, at most {DNS_LABEL}; \
         rename the service or set `names = \"map\"`"
    )))
}

/// The names to ask for: the mapped one, and the exact one where it differs.
pub(crate) fn asked(name: &ServiceName) -> Vec<String> {
    let mapped = mapped(name.as_str());
    let exact = name.as_str().to_owned();
    if mapped == exact { vec![exact] } else { vec![mapped, exact] }
}

fn mapped(name: &str) -> String {
    let mut text: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect();
    if text.len() > DNS_LABEL {
        text.truncate(DNS_LABEL - 9);
        text.push_str(&format!("-{:08x}", fnv(name.as_bytes()) as u32));
    }
    text
}

/// The id of the foreign instance `id` of `node`.
pub(crate) fn foreign_id(id: &str, node: &str) -> InstanceId {
    let exact = format!("{id}.{node}");
    if let Ok(good) = InstanceId::new(&exact) {
        return good;
    }
    let mut text: String = exact
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' })
        .collect();
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        text.insert(0, 'x');
    }
    text.truncate(LONGEST_ID - 17);
    // The separator of the hashed pair is none that either part may have.
    text.push_str(&format!("-{:016x}", fnv(format!("{id}\0{node}").as_bytes())));
    InstanceId::new(&text).expect("invariant: only allowed characters are left, at most 128")
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo; draft-eastlake-fnv).
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        ServiceName::new(text).unwrap()
    }

    #[test]
    fn what_dns_carries_stays_as_it_is() {
        for text in ["users", "Users-2", &"x".repeat(63)] {
            assert_eq!(registered(&name(text), Names::Refuse).unwrap(), text);
            assert_eq!(asked(&name(text)), [text]);
        }
    }

    #[test]
    fn other_names_are_mapped_or_refused() {
        let dotted = name("users.v1_a");
        assert_eq!(registered(&dotted, Names::Map).unwrap(), "users-v1-a");
        assert_eq!(asked(&dotted), ["users-v1-a", "users.v1_a"]);
        let error = registered(&dotted, Names::Refuse).unwrap_err().to_string();
        assert!(error.contains("`users.v1_a`") && error.contains("names"), "{error}");
        let (a, b) = (name(&format!("{}a", "x".repeat(100))), name(&format!("{}b", "x".repeat(100))));
        let (a, b) = (registered(&a, Names::Map).unwrap(), registered(&b, Names::Map).unwrap());
        assert!(a != b && is_dns(&a) && a.len() == 63, "{a} {b}");
    }

    #[test]
    fn foreign_ids_never_meet() {
        assert_eq!(foreign_id("redis1", "node-1").as_str(), "redis1.node-1");
        let odd = foreign_id("_nomad-task-ü/1", "node 1");
        assert!(odd.as_str().starts_with("x_nomad-task---1.node-1-"), "{odd}");
        assert_ne!(foreign_id("a/b", "n"), foreign_id("a b", "n"));
        let long = "y".repeat(200);
        assert_ne!(foreign_id(&format!("{long}1"), "n"), foreign_id(&format!("{long}2"), "n"));
        assert_ne!(foreign_id("a/", "b"), foreign_id("a", "/b"));
    }
}
