//! Tombstones: keys that are called otherwise here, and the key to use instead.
//!
//! A key that is renamed leaves its old path in the table for ever. The first rows are the names that other frameworks gave the same things. `*` stands for any one segment.

use crate::key::KeyPath;

/// Old path and new path; a `*` in the new path takes what stood for the one in the old path.
const TABLE: &[(&str, &str)] = &[
    ("client.*.deadline", "client.*.timeout"),
    ("client.*.lb", "client.*.balance"),
    ("client.*.load_balancer", "client.*.balance"),
    ("client.*.request_timeout", "client.*.timeout"),
    ("client.*.retries", "client.*.retry.attempts"),
    ("client.*.retry.max_attempts", "client.*.retry.attempts"),
    ("drain.grace_period", "drain.deadline"),
    ("drain.timeout", "drain.deadline"),
    ("registry.kind", "registry.use"),
    ("registry.type", "registry.use"),
    ("server.max_body_size", "server.max_body_bytes"),
    ("server.timeout", "server.default_deadline"),
    ("service.address", "service.http"),
    ("service.environment", "service.env"),
    ("service.listen", "service.http"),
    ("service.port", "service.http"),
    ("service.tags", "service.labels"),
];

/// The path to use instead of `path`, if it has a tombstone.
pub(crate) fn replacement(path: &KeyPath) -> Option<KeyPath> {
    TABLE.iter().find_map(|(old, new)| {
        let old = KeyPath::parse(old);
        let pairs = || old.segments().iter().zip(path.segments());
        let fits = old.segments().len() == path.segments().len() && pairs().all(|(o, p)| o == "*" || o == p);
        let star = pairs().find(|(o, _)| *o == "*").map(|(_, p)| p);
        fits.then(|| {
            KeyPath::parse(new).segments().iter().fold(KeyPath::default(), |path, segment| {
                path.join(if segment == "*" { star.unwrap_or(segment) } else { segment })
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn a_tombstone_keeps_the_name_in_the_middle() {
        let found = replacement(&KeyPath::parse("client.users.lb")).map(|p| p.to_string());
        assert_eq!(found.as_deref(), Some("client.users.balance"));
    }

    #[test]
    fn tombstones_lead_from_no_key_to_a_key() {
        let keys = schema::keys();
        for (old, new) in TABLE {
            assert!(!keys.iter().any(|key| key == old), "{old} is a key");
            assert!(keys.iter().any(|key| key == new), "{new} is no key");
        }
    }
}
