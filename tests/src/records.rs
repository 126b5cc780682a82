//! What the registry holds, asked for behind the back of the framework, by `etcdctl`.

use std::collections::BTreeSet;

use meshwork_testkit::etcd::Etcd;

use crate::{ENVIRONMENT, Result};

/// The prefix of the records of `service`, and the end of that range.
fn range(service: &str) -> [String; 2] {
    let dir = format!("/meshwork/{ENVIRONMENT}/instances/{service}");
    // `0` is the byte after `/`.
    [format!("{dir}/"), format!("{dir}0")]
}

/// The ids of all instances of `service` that are announced.
///
/// # Errors
/// When etcd does not answer.
///
/// # Cancel safety
/// Dropping the future changes nothing.
pub async fn announced(etcd: &Etcd, service: &str) -> Result<BTreeSet<String>> {
    let [from, to] = range(service);
    let keys =
        etcd.etcdctl(["get", &from, &to, "--keys-only"]).await.map_err(|error| format!("{error:?}"))?;
    Ok(keys.lines().filter_map(|key| key.strip_prefix(&from)).map(str::to_owned).collect())
}

/// The ids of all leases that live.
///
/// # Errors
/// When etcd does not answer.
///
/// # Cancel safety
/// Dropping the future changes nothing.
pub async fn leases(etcd: &Etcd) -> Result<Vec<String>> {
    let said = etcd.etcdctl(["lease", "list"]).await.map_err(|error| format!("{error:?}"))?;
    let is_id = |line: &&str| !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(said.lines().map(str::trim).filter(is_id).map(str::to_owned).collect())
}
